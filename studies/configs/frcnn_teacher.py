# Twice its student's width in the backbone, and trained for longer.
_base_ = ["./_base_/frcnn.py", "./_base_/teacher_schedule.py"]
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[64, 128, 256]),
)
