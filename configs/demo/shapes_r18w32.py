# The quickstart's teacher: twice the student's width.
_base_ = ["./_base_/frcnn_r18.py", "./_base_/shapes_small.py"]

model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
