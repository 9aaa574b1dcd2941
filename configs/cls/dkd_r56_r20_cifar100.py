# Control: the same pair and schedule with DKD; beta is the DKD authors' for this pair.
_base_ = "./rekd_r56_r20_cifar100.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.DKDLoss", alpha=1.0, beta=2.0, tau=4.0)))
