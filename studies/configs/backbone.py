# The backbones of the studies' detectors are pre-trained on objects cut out of generated images, as those of full size
# are on ImageNet. `tools/study.py` sets the backbone and the data.
_base_ = "./frcnn_student.py"
custom_imports = dict(imports=["studies.runner.crop_classifier"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="mmrazor.CropClassifier",
    backbone=_base_.model.backbone,
    num_classes=24,
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=_base_.model.data_preprocessor.mean,
        std=_base_.model.data_preprocessor.std,
        bgr_to_rgb=True,
    ),
)
max_epochs = 6
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=max_epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
