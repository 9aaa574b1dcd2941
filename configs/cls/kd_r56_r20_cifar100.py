# Control: the same pair and schedule with KD.
_base_ = "./rekd_r56_r20_cifar100.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.KDLoss", tau=4.0)))
