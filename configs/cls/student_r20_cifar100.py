# Control: the student ResNet-20 without distillation.
_base_ = "./_base_/cifar100.py"
model = dict(
    backbone=dict(type="mmrazor.CIFARResNet", depth=20),
    head=dict(in_channels=64),
)
