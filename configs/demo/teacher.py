# The demo's teacher: half a ResNet-18's width, trained from scratch on the generated images.
_base_ = ["./_base_/frcnn_r18.py", "./_base_/shapes.py"]

model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
