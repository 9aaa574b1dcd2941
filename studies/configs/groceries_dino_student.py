# 1.5 times the epochs of the other heads, because queries learn slowly.
_base_ = ["./_base_/groceries_dino.py", "./_base_/groceries.py"]
optim_wrapper = _base_.dino_optim_wrapper
max_epochs = 54
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=max_epochs)]
