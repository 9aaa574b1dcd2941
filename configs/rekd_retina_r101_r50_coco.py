# The loss of _base_/rekd_distill_sigmoid.py. On photographs (docs/study.md, "RetinaNet") a small RetinaNet gained as
# much from it as from KD, and no more.
_base_ = ["mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "./_base_/rekd_sigmoid.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::retinanet/retinanet_r101_fpn_2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/"
    "retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth",
)
