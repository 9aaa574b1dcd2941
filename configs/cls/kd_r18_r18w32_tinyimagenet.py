# Control: the same pair and schedule with KD.
_base_ = "./rekd_r18_r18w32_tinyimagenet.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.KDLoss", tau=4.0)))
