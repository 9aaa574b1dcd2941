# Twice its student's width in the backbone.
_base_ = "./frcnn_student.py"
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[64, 128, 256]),
)
