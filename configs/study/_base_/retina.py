# A RetinaNet for images of 128 pixels, a quarter of a ResNet-18's width in the backbone, trained from scratch.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(
    backbone=dict(
        depth=18,
        base_channels=16,
        stem_channels=16,
        # Nothing is pre-trained, so nothing may be frozen and BN must learn its statistics.
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64, num_outs=4),
    bbox_head=dict(
        num_classes=24,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        # Objects start at 14 pixels; mmdet's default scale of 4 starts at 32.
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32, 64]),
    ),
    test_cfg=dict(nms_pre=300, max_per_img=30),
)
