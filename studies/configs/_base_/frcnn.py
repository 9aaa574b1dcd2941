# A Faster R-CNN for images of 128 pixels, a quarter of a ResNet-18's width in the backbone.
_base_ = ["mmdet::_base_/models/faster-rcnn_r50_fpn.py", "./small_resnet.py"]

model = dict(
    backbone=_base_.small_resnet,
    neck=dict(in_channels=[32, 64, 128], out_channels=64, num_outs=3),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Objects start at 20 pixels: a level of stride 4 would cost most and find nothing.
        anchor_generator=dict(scales=[3], strides=[8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64,
            featmap_strides=[8, 16, 32],
            finest_scale=20,
            # One sample per bin: on a CPU, RoIAlign's backward takes most of a step.
            roi_layer=dict(sampling_ratio=1),
        ),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=24, reg_class_agnostic=True),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=60),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=40),
        rcnn=dict(max_per_img=30),
    ),
)
