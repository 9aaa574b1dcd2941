# ResNet-32x4 teaches ResNet-8x4.
_base_ = "./student_r8x4_cifar100.py"
custom_hooks = _base_.rekd_hooks
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="{{ fileDirname }}/teacher_r32x4_cifar100.py"),
    teacher_ckpt="work_dirs/teacher_r32x4_cifar100/epoch_240.pth",
)
