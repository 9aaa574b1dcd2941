# Control: the same pair and schedule with DKD; alpha and beta are the DKD authors' defaults for CIFAR-100.
_base_ = "./rekd_r18_r18w16_tinyimagenet.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.DKDLoss", alpha=1.0, beta=8.0, tau=4.0)))
