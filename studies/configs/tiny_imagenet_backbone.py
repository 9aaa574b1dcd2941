# Backbones of the studies on photographs are pre-trained on Tiny-ImageNet (200 classes, 64 x 64 pixels) by MMPretrain.
# `tools/study.py` sets the backbone, and `head.in_channels` to fit it. Unpack the images to data/tiny_imagenet/train
# and data/tiny_imagenet/val, one folder per class. 40,000 of its 100,000 training images were used here.
default_scope = "mmpretrain"
custom_imports = dict(
    imports=["rekd_det", "mmpretrain.models", "mmpretrain.datasets", "mmpretrain.evaluation"],
    allow_failed_imports=False,
)

model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="mmdet.ResNet",
        depth=18,
        out_indices=(1, 2, 3),
        base_channels=16,
        stem_channels=16,
        norm_eval=False,
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=200, in_channels=128),
    # Images arrive as RGB in mmpretrain, as mmdet's preprocessor makes them.
    data_preprocessor=dict(
        num_classes=200,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
)

data_root = "data/tiny_imagenet/"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomCrop", crop_size=64, padding=8, padding_mode="reflect"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(
        type="CustomDataset", data_root=data_root, data_prefix=dict(img_path="train"), pipeline=train_pipeline
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    dataset=dict(type="CustomDataset", data_root=data_root, data_prefix=dict(img_path="val"), pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator

max_epochs = 3
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=max_epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50), checkpoint=dict(type="CheckpointHook", max_keep_ckpts=2)
)
env_cfg = dict(cudnn_benchmark=False)
randomness = dict(seed=0)
