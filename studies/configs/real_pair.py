_base_ = ["./real_student.py", "../../configs/_base_/rekd_distill.py"]
custom_hooks = _base_.rekd_hooks
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::yolox/yolox_nano_8xb8-300e_coco.py"),
    teacher_ckpt="work_dirs/real/yolox_nano_coco_mmdet.pth",
)
