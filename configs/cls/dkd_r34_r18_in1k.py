# Control: the same pair and schedule with DKD; beta is the DKD authors' for ResNet-34 and ResNet-18.
_base_ = "./rekd_r34_r18_in1k.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.DKDLoss", alpha=1.0, beta=0.5, tau=1.0)))
