# Twice its student's width in the backbone, and trained for longer.
_base_ = ["./_base_/mrcnn.py", "./_base_/masks.py"]
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[64, 128, 256]),
)
max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR",
        T_max=max_epochs,
        eta_min=1e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
