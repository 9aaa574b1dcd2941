"""Fast paths of the distillation losses: values and gradients of the oracle, ``functional.py``, in one pass.

``spec.py`` describes a loss as weights on the terms of the top-K identity, ``fused.py`` (torch) and ``triton.py`` (GPU)
compute any such loss together with its closed-form gradient, ``function.py`` ties them to autograd, ``dispatch.py``
chooses.
"""

from rekd_det.models.losses.kernels.dispatch import BACKENDS, check_backend, choose
from rekd_det.models.losses.kernels.function import logit_kd
from rekd_det.models.losses.kernels.spec import KDSpec, Part

__all__ = ["BACKENDS", "KDSpec", "Part", "check_backend", "choose", "logit_kd"]
