# Teachers have to know more than their students: they are trained for longer and with more augmentation, like those of
# mmdet's zoo.
_base_ = "./groceries.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=_base_.scale, ratio_range=(0.8, 1.4), keep_ratio=True),
    dict(type="RandomCrop", crop_size=_base_.scale),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_epochs = 72
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=max_epochs)]
