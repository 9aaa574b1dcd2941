# `rekd.py` for heads that classify by sigmoids.
_base_ = "./rekd_distill_sigmoid.py"
custom_hooks = _base_.rekd_hooks
