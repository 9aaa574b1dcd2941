"""What the distillation losses are, and three engines that compute them.

``spec.py`` describes a loss as weights on the terms of the top-K identity. ``eager.py`` computes it row by row in plain
torch, with autograd's gradient: the reference. ``fused.py`` (torch) and ``triton.py`` (GPU) compute the sum over the
rows together with its closed-form gradient in one pass, and ``function.py`` ties them to autograd. ``dispatch.py``
chooses.
"""

from rekd_det.models.losses.kernels.dispatch import BACKENDS, check_backend, choose
from rekd_det.models.losses.kernels.function import logit_kd
from rekd_det.models.losses.kernels.spec import KDSpec, Part

__all__ = ["BACKENDS", "KDSpec", "Part", "check_backend", "choose", "logit_kd"]
