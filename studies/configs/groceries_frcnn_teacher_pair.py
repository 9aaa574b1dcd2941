# The teacher of groceries_frcnn_teacher.py, taught by a stronger one itself.
_base_ = ["./groceries_frcnn_teacher.py", "../../configs/_base_/rekd.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="{{ fileDirname }}/groceries_frcnn_teacher.py"),
    teacher_ckpt="work_dirs/study/groceries_frcnn_teacher.pth",
)
