# The quickstart's student: a ResNet-18 of a quarter of the usual width.
_base_ = ["./_base_/frcnn_r18.py", "./_base_/shapes_small.py"]

model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128]),
)
