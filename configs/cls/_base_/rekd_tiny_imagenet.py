# The loss of the Tiny-ImageNet pairs. tau is that of the CIFAR-100 pairs; nothing was tuned at full size.
_base_ = "../../_base_/rekd.py"
distill = dict(distiller=dict(loss=dict(tau=4.0)))
