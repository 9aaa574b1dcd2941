# The studies' Faster R-CNN on generated images, for `studies/tiny.yml`. `tools/study.py` sets the data's place, the
# seed and the first weights; without it, write the data with `tools/make_shapes_coco.py --preset study`.
_base_ = ["./_base_/frcnn.py", "../../configs/demo/_base_/shapes.py"]

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
