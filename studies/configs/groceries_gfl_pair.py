# The arms of a study change `model.distiller`; `tools/study.py` sets the teacher's checkpoint.
_base_ = ["./groceries_gfl_student.py", "../../configs/_base_/rekd_sigmoid.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="{{ fileDirname }}/groceries_gfl_teacher.py"),
    teacher_ckpt="work_dirs/study/groceries_gfl_teacher.pth",
)
