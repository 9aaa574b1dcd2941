"""Common random numbers: what a step draws depends on its number and the run's seed, not on what it trains."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seeds Python's, NumPy's and torch's generators before each training step.

    A distillation builds more modules than the student alone, and thereby moves the generators on; without this the
    arms of one seed would sample other RoIs from their first step on.
    """

    priority = "LOWEST"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Seed by the run's seed and the number of the step."""
        seed, numpy_seed = np.random.SeedSequence((runner.seed, runner.iter)).generate_state(2).tolist()
        random.seed(seed)
        np.random.seed(numpy_seed)
        torch.manual_seed(seed)
