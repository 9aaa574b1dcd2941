# Control: the same pair and schedule with DKD; beta is the DKD authors' for this pair.
_base_ = "./rekd_vgg13_vgg8_cifar100.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.DKDLoss", alpha=1.0, beta=6.0, tau=4.0)))
