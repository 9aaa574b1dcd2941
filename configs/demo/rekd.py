# The demo's pair: the student is distilled with ReKD from the teacher that the demo has trained.
_base_ = ["./student.py", "../_base_/rekd.py"]

model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="{{ fileDirname }}/teacher.py"),
    teacher_ckpt="work_dirs/demo/teacher/epoch_10.pth",
)
