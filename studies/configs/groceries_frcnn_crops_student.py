# The student of groceries_frcnn_student.py, trained like its teachers: for longer, with a random scale and crop.
_base_ = ["./_base_/groceries_frcnn.py", "./_base_/groceries_teacher.py"]
