# The teacher ResNet-32x4; MMPretrain's zoo has none, so train it first.
_base_ = "./_base_/cifar100.py"
model = dict(
    backbone=dict(type="mmrazor.CIFARResNet", depth=32, channels=(32, 64, 128, 256)),
    head=dict(in_channels=256),
)
