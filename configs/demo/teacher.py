# The demo's teacher: half a ResNet-18's width, trained from scratch on the generated images.
_base_ = ["./_base_/frcnn_r18.py", "./_base_/shapes.py"]

model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
)

# Longer than the student, because a teacher must be better than its student.
max_epochs = 10
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=max_epochs)]
