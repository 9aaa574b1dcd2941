# For students whose config has no `custom_hooks`. The others read `rekd_distill.py` and add `_base_.rekd_hooks` to
# their own, as `rekd_yolox_s_nano_coco.py` does.
_base_ = "./rekd_distill.py"
custom_hooks = _base_.rekd_hooks
