# `rekd.py` for heads that classify with sigmoids.
_base_ = "./rekd_distill_sigmoid.py"
custom_hooks = _base_.rekd_hooks
