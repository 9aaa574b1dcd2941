# A narrow Faster R-CNN for images of 128 pixels, trained from scratch.
_base_ = ["mmdet::_base_/models/faster-rcnn_r50_fpn.py"]

model = dict(
    backbone=dict(
        depth=18,
        # Nothing is pre-trained, so nothing may be frozen and BN must learn its statistics.
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Objects are 20 to 60 pixels wide; mmdet's default scale of 8 starts at 32.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64,
            finest_scale=28,
            # One sample per bin: on a CPU, RoIAlign's backward takes most of a step.
            roi_layer=dict(sampling_ratio=1),
        ),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=12, reg_class_agnostic=True),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=48)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=60),
        rcnn=dict(max_per_img=30),
    ),
)
