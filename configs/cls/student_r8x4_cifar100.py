# Control: the student ResNet-8x4 without distillation.
_base_ = "./_base_/cifar100.py"
model = dict(
    backbone=dict(type="mmrazor.CIFARResNet", depth=8, channels=(32, 64, 128, 256)),
    head=dict(in_channels=256),
)
