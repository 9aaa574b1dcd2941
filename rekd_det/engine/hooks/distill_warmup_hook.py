"""DistillWarmupHook: let a distillation set in slowly."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmrazor.registry import HOOKS

from rekd_det.engine.utils import distillation_of


@HOOKS.register_module()
class DistillWarmupHook(Hook):
    """Raise the weight of all distillation losses linearly from ``1 / iters`` to 1 over the first iterations.

    It follows the Runner's iteration, so that a resumed run goes on where it was.

    Args:
        iters: length in iterations, >= 1.
    """

    priority = "NORMAL"

    def __init__(self, iters: int) -> None:
        if not isinstance(iters, int) or isinstance(iters, bool) or iters < 1:
            raise ValueError(f"DistillWarmupHook: iters must be an int >= 1, got {iters!r}")
        self.iters = iters

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Set this iteration's weight."""
        distillation_of(runner).distiller.scale = min(1.0, (runner.iter + 1) / self.iters)
