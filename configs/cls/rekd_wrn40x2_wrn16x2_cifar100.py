# WRN-40-2 teaches WRN-16-2.
_base_ = "./student_wrn16x2_cifar100.py"
custom_hooks = _base_.rekd_hooks
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="{{ fileDirname }}/teacher_wrn40x2_cifar100.py"),
    teacher_ckpt="work_dirs/teacher_wrn40x2_cifar100/epoch_240.pth",
)
