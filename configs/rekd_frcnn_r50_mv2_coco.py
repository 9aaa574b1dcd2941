# The loss of _base_/rekd_distill.py; docs/study.md supports its beta for Faster R-CNN.
_base_ = ["./student_frcnn_mv2_coco.py", "./_base_/rekd.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/"
    "faster_rcnn/faster_rcnn_r50_fpn_1x_coco/faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
)
