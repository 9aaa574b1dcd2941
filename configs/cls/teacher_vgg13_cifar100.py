# The teacher VGG-13; MMPretrain's zoo has none, so train it first.
_base_ = "./_base_/cifar100.py"
model = dict(
    backbone=dict(type="mmrazor.CIFARVGG", depth=13),
    head=dict(in_channels=512),
)
