# The augmentation of mmdet's own COCO configs: no random scale and no crop.
# The student probably overfits: it stops gaining sooner.
_base_ = "./groceries_frcnn_student.py"
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="Resize", scale=(128, 128), keep_ratio=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ]
    )
)
