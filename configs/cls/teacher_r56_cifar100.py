# The teacher ResNet-56; MMPretrain's zoo has none, so train it first.
_base_ = "./_base_/cifar100.py"
model = dict(
    backbone=dict(type="mmrazor.CIFARResNet", depth=56),
    head=dict(in_channels=64),
)
