# Three times the epochs of the other heads: queries learn slowly.
_base_ = ["./_base_/groceries_dino.py", "./_base_/groceries.py"]
optim_wrapper = dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=0.1))
max_epochs = 72
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=max_epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
