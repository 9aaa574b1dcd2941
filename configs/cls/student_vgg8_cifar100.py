# Control: the student VGG-8 without distillation.
_base_ = "./_base_/cifar100.py"
model = dict(
    backbone=dict(type="mmrazor.CIFARVGG", depth=8),
    head=dict(in_channels=512),
)
