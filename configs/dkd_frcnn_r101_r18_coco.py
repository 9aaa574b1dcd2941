# Control: the same pair and schedule with DKD.
_base_ = "./rekd_frcnn_r101_r18_coco.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.DKDLoss", alpha=1.0, beta=0.25, tau=1.0)))
