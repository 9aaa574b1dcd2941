# The loss of the Tiny-ImageNet pairs. tau is that of the CIFAR-100 pairs. beta 8 is 3.0 points above beta 1, and 3.1
# above KD, in docs/study.md (3 seeds, small networks and 4 epochs); nothing was tuned at full size.
_base_ = "../../_base_/rekd.py"
distill = dict(distiller=dict(loss=dict(tau=4.0, beta=8.0)))
