# The loss of _base_/rekd_distill_sigmoid.py, whose beta was measured for RetinaNet and GFL.
_base_ = ["mmdet::atss/atss_r50_fpn_1x_coco.py", "./_base_/rekd_sigmoid.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::atss/atss_r101_fpn_1x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r101_fpn_1x_coco/"
    "atss_r101_fpn_1x_20200825-dfcadd6f.pth",
)
