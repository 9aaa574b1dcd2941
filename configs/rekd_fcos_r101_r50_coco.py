# The loss of _base_/rekd_distill_sigmoid.py, whose beta was measured for RetinaNet and GFL.
_base_ = ["mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "./_base_/rekd_sigmoid.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco/"
    "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth",
)
