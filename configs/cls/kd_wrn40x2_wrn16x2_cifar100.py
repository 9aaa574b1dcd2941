# Control: the same pair and schedule with KD.
_base_ = "./rekd_wrn40x2_wrn16x2_cifar100.py"
model = dict(distiller=dict(loss=dict(_delete_=True, type="mmrazor.KDLoss", tau=4.0)))
