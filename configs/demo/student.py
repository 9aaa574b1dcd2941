# The demo's student: half the teacher's width in the backbone.
_base_ = ["./_base_/frcnn_r18.py", "./_base_/shapes.py"]

model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128]),
)
