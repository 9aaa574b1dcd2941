# Control: the student WRN-16-2 without distillation.
_base_ = "./_base_/cifar100.py"
model = dict(
    backbone=dict(type="mmrazor.CIFARWideResNet", depth=16, widen_factor=2),
    head=dict(in_channels=128),
)
