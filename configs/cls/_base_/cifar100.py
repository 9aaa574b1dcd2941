# CIFAR-100 as in the tables of the literature: 240 epochs, batches of 64 images, and a warm-up of the distillation over
# 20 epochs. tau and the schedule are those of the DKD authors' code (CVPR 2022); ReKD's alpha and beta were not tuned.
_base_ = [
    "mmpretrain::_base_/datasets/cifar100_bs16.py",
    "mmpretrain::_base_/schedules/cifar10_bs128.py",
    "mmpretrain::_base_/default_runtime.py",
    "../../_base_/rekd_distill.py",
]
model = dict(
    type="ImageClassifier",
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=100, topk=(1, 5)),
)
train_dataloader = dict(batch_size=64, collate_fn=dict(type="default_collate"))
val_dataloader = dict(batch_size=64, collate_fn=dict(type="default_collate"))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, 5))
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=0.05, weight_decay=0.0005))
param_scheduler = dict(milestones=[150, 180, 210])
train_cfg = dict(max_epochs=240)
auto_scale_lr = dict(enable=False, base_batch_size=64)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))

distill = dict(distiller=dict(loss=dict(tau=4.0)))
rekd_hooks = [*_base_.rekd_hooks, dict(type="mmrazor.DistillWarmupHook", epochs=20)]
