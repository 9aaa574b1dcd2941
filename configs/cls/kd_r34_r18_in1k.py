# Control: the same pair and schedule with KD.
_base_ = "./rekd_r34_r18_in1k.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.KDLoss", tau=1.0)))
