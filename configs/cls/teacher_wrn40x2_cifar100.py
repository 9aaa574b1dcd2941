# The teacher WRN-40-2; MMPretrain's zoo has none, so train it first.
_base_ = "./_base_/cifar100.py"
model = dict(
    backbone=dict(type="mmrazor.CIFARWideResNet", depth=40, widen_factor=2),
    head=dict(in_channels=128),
)
