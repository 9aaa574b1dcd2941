# Twice its student's width in the backbone.
_base_ = ["./_base_/groceries_dino.py", "./_base_/groceries_teacher.py"]
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[128, 256]),
)
optim_wrapper = _base_.dino_optim_wrapper
