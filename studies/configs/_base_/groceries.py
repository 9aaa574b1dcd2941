# The Freiburg Groceries Dataset with boxes: photographs of 25 look-alike categories, 224 x 224, COCO format.
# `data/groceries` must hold `train/`, `val/` and `annotations/`, or name another folder as an option of the study file
# (`data_root`). Grey letterbox bars belong to the images; some objects in the background have no box.
# Boxes: github.com/aleksandar-aleksandrov/groceries-object-detection-dataset; photographs: Jund et al., 2016.
_base_ = ["mmdet::_base_/datasets/coco_detection.py", "mmdet::_base_/default_runtime.py"]

data_root = "data/groceries/"
metainfo = dict(
    classes=(
        "beans", "cake", "candy", "cereal", "chips", "chocolate", "coffee", "corn", "fish", "flour", "honey", "jam",
        "juice", "milk", "nuts", "oil", "pasta", "rice", "soda", "spices", "sugar", "tea", "tomato_sauce", "vinegar",
        "water",
    )
)  # fmt: skip

scale = (128, 128)
# The augmentation of mmdet's own COCO configs.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]

# Such small images load faster than a second process could transfer them.
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    batch_sampler=None,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train/"),
        # Every third photograph, so that a student can be trained until it stops gaining on two cores.
        indices=list(range(0, 3528, 3)),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="val/"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val.json")
test_evaluator = val_evaluator

max_epochs = 36
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
# The cosine ends with the last epoch: change `T_max` along with `train_cfg.max_epochs`.
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
default_hooks = dict(
    logger=dict(interval=20),
    # Two, because the oldest is removed before the next one is complete.
    checkpoint=dict(interval=1, max_keep_ckpts=2),
)
randomness = dict(seed=0)
