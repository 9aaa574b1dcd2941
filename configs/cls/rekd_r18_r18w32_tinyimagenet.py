# ResNet-18 teaches a ResNet-18 of half its width.
_base_ = ["./student_r18w32_tinyimagenet.py", "./_base_/rekd_tiny_imagenet.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="{{ fileDirname }}/teacher_r18_tinyimagenet.py"),
    teacher_ckpt="work_dirs/teacher_r18_tinyimagenet/epoch_100.pth",
)
