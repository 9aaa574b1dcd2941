# The name of `rekd_sigmoid.py` when RetinaNet's pairs alone read it; for configs that were written then.
_base_ = "./rekd_sigmoid.py"
