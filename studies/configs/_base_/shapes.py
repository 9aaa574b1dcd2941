# The demo's data and schedule with the studies' categories. `tools/study.py` sets the data's place, the seed and the
# student's first weights; without it, write the data with `tools/make_shapes_coco.py --preset study`.
_base_ = "../../../configs/demo/_base_/shapes.py"

data_root = "work_dirs/study/data/"
# The categories of `tools/make_shapes_coco.py --preset study` (and `large`), in its order.
metainfo = dict(
    classes=(
        "circle", "ellipse", "ring", "crescent",
        "star-5", "star-4", "star-6", "star-8",
        "cross-4", "cross-3", "cross-5", "cross-6",
        "badge-plain", "badge-dot", "badge-bar", "badge-cross",
        "pentagon", "hexagon", "heptagon", "octagon",
        "triangle", "chevron", "kite", "arrow",
    )
)  # fmt: skip
train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
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
