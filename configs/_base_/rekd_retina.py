# The old name of `rekd_sigmoid.py`, when only RetinaNet's pairs used it; for configs that were written then.
_base_ = "./rekd_sigmoid.py"
