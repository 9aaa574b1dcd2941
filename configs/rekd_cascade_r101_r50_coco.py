# The loss of _base_/rekd_distill.py, which docs/study.md supports for Faster R-CNN; not measured for this one.
_base_ = ["mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", "./_base_/rekd.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::cascade_rcnn/cascade-rcnn_r101_fpn_20e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/"
    "cascade_rcnn/cascade_rcnn_r101_fpn_20e_coco/cascade_rcnn_r101_fpn_20e_coco_bbox_mAP-0.425_20200504_231812-5057dcc5.pth",
)
