"""Fast paths of the distillation losses: the values and gradients of :mod:`rekd_det.functional` in one pass.

``spec.py`` describes a loss as weights on the terms of the top-K identity, ``fused.py`` (torch) and ``triton.py`` (GPU)
compute any such loss together with its closed-form gradient, ``function.py`` ties them to autograd, ``dispatch.py``
chooses.
"""

from .dispatch import BACKENDS, check_backend, choose
from .function import logit_kd
from .spec import KDSpec, Part

__all__ = ["BACKENDS", "KDSpec", "Part", "check_backend", "choose", "logit_kd"]
