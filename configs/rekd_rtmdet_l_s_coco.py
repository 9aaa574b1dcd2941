# The loss of _base_/rekd_distill_sigmoid.py, whose beta was measured for RetinaNet and GFL.
_base_ = ["mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py", "./_base_/rekd_distill_sigmoid.py"]
custom_hooks = [*_base_.custom_hooks, *_base_.rekd_hooks]
auto_scale_lr = dict(base_batch_size=256)  # 8 x 32; mmdet's config keeps 16 from another schedule
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_l_8xb32-300e_coco/"
    "rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth",
)
