# The shipped Mask R-CNN R101-R18 pair, real models on real COCO images for a few steps.
_base_ = ["../configs/rekd_mrcnn_r101_r18_coco.py", "./real.py"]

small = [_base_.image, dict(type="LoadAnnotations", with_bbox=True, with_mask=True), _base_.resize]
train_dataloader = dict(**_base_.few_workers, dataset=dict(pipeline=[*small, _base_.flip, _base_.pack]))
val_dataloader = dict(**_base_.few_workers, dataset=dict(pipeline=[*small, _base_.pack_for_test]))
test_dataloader = val_dataloader
model = dict(architecture=_base_.student)
train_cfg = _base_.loop
param_scheduler = _base_.schedule
default_hooks = _base_.hooks
log_processor = dict(by_epoch=False)
