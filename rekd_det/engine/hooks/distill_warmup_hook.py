"""DistillWarmupHook: start a distillation slowly."""

from __future__ import annotations

import warnings
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmrazor.registry import HOOKS

from rekd_det.engine.utils import distillation_of


@HOOKS.register_module()
class DistillWarmupHook(Hook):
    """Raise the weight of all distillation losses linearly to 1, from the first iteration on.

    It follows the Runner's iteration, so a resumed run continues with the same weight.

    Args:
        iters: length in iterations, >= 1.
        epochs: length in epochs of the training data, >= 1. Give one of the two.

    Raises:
        ValueError: if both or none are given, or one is not an int >= 1.
    """

    priority = "NORMAL"

    def __init__(self, iters: int | None = None, epochs: int | None = None) -> None:
        given = {name: value for name, value in (("iters", iters), ("epochs", epochs)) if value is not None}
        if len(given) != 1:
            raise ValueError("DistillWarmupHook: give either iters or epochs")
        for name, value in given.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"DistillWarmupHook: {name} must be an int >= 1, got {value!r}")
        self.iters, self.epochs = iters, epochs

    def before_train(self, runner: Runner) -> None:
        """Learn how many iterations an epoch has, and warn of a training that ends before the weight is 1."""
        if self.epochs is not None:
            self.iters = self.epochs * _iters_of_an_epoch(runner.train_dataloader)
        if self.iters is not None and self.iters > runner.max_iters:
            warnings.warn(
                f"DistillWarmupHook raises the distillation's weight for {self.iters} iterations, and the training "
                f"ends after {runner.max_iters}, at a weight of {runner.max_iters / self.iters:.2g}",
                stacklevel=2,
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Set this iteration's weight."""
        assert self.iters is not None
        distillation_of(runner).distiller.scale = min(1.0, (runner.iter + 1) / self.iters)


def _iters_of_an_epoch(loader: Any) -> int:
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None) or getattr(loader, "sampler", None)
    if isinstance(sampler, InfiniteSampler):  # its length is that of all processes
        return -(-len(loader) // sampler.world_size)
    return len(loader)
