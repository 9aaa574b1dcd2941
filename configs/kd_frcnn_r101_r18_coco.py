# Control: the same pair and schedule with KD.
_base_ = "./rekd_frcnn_r101_r18_coco.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.KDLoss", tau=1.0)))
