# Backbones of the studies on photographs are pre-trained on Tiny-ImageNet by MMPretrain: on 40,000 of its 100,000
# training images here. `tools/study.py` sets the backbone, and `head.in_channels` to fit it.
_base_ = "../../configs/cls/_base_/tiny_imagenet.py"
custom_imports = dict(imports=["mmpretrain.models", "mmpretrain.datasets"], allow_failed_imports=False)

model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmdet.ResNet", depth=18, out_indices=(1, 2, 3), base_channels=16, stem_channels=16),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=200, in_channels=128),
)

# Such small images load faster than a second process could transfer them.
train_dataloader = dict(num_workers=0, persistent_workers=False)
max_epochs = 15
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(_delete_=True, optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=max_epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
