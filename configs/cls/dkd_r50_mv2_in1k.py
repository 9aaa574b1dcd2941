# Control: the same pair and schedule with DKD; beta is the DKD authors' for ResNet-50 and MobileNet (V1).
_base_ = "./rekd_r50_mv2_in1k.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.DKDLoss", alpha=1.0, beta=2.0, tau=1.0)))
