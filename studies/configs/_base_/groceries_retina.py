# A RetinaNet for photographs of 128 pixels, a quarter of a ResNet-18's width in the backbone.
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "./small_resnet.py"]

model = dict(
    backbone=_base_.small_resnet,
    neck=dict(in_channels=[32, 64, 128], out_channels=64, start_level=0, num_outs=3),
    bbox_head=dict(
        num_classes=25,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=4, scales_per_octave=2, strides=[8, 16, 32]),
    ),
    test_cfg=dict(nms_pre=300, max_per_img=30),
)
