# Control: the student of the R50-MobileNetV2 pair without distillation.
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNetV2",
        out_indices=(1, 2, 4, 6),  # strides 4, 8, 16, 32
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://mmdet/mobilenet_v2"),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
