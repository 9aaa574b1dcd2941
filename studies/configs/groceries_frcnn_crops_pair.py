# The arms of a study change `model.distiller`; `tools/study.py` sets the teacher's checkpoint.
_base_ = ["./groceries_frcnn_crops_student.py", "../../configs/_base_/rekd.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="{{ fileDirname }}/groceries_frcnn_teacher.py"),
    teacher_ckpt="work_dirs/study/groceries_frcnn_teacher.pth",
)
