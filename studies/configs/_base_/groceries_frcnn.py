# The studies' Faster R-CNN for photographs of 160 pixels, whose objects are 36 to 119 pixels wide (90 % of them).
_base_ = ["./frcnn.py", "./groceries.py"]

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(finest_scale=28),
        bbox_head=dict(num_classes=25),
    ),
)
