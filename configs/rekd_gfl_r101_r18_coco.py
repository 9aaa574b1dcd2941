# The loss of _base_/rekd_distill_sigmoid.py. On photographs (docs/study.md, "GFL") a small GFL gained as much from it
# as from KD, and no more.
_base_ = ["./student_gfl_r18_coco.py", "./_base_/rekd_sigmoid.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/"
    "gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth",
)
