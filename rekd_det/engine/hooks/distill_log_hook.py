"""DistillLogHook: log the statistics of a distillation."""

from __future__ import annotations

import re

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmrazor.registry import HOOKS

from rekd_det.engine.hooks.distill_warmup_hook import DistillWarmupHook
from rekd_det.engine.utils import distillation_of

#: names of a distillation's scalars, except the factor of its warm-up, which is exact at each step
_STATISTICS = r"distill\.(?!scale$)"


@HOOKS.register_module()
class DistillLogHook(Hook):
    """Log the statistics of a distillation, through mmengine's own log and visualizer backends.

    mmengine averages names with "loss" in them over its window and shows of all others the newest value. The
    statistics of a distillation ('distill.head_mass', 'distill.agreement') are of one batch and as noisy as a loss, so
    they are averaged as well. During a warm-up its factor is logged as 'distill.scale'. mmengine repeats the last value
    of a scalar that is no longer set, so those of a distillation that has stopped are removed.
    """

    priority = "NORMAL"  # before LoggerHook

    def before_train(self, runner: Runner) -> None:
        """Extend the log's averaging to the statistics."""
        processor = runner.log_processor
        processor.mean_pattern = re.compile(rf"{processor.mean_pattern.pattern}|{_STATISTICS}")
        self._stopped = False
        self._warms_up = any(isinstance(hook, DistillWarmupHook) for hook in runner.hooks)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Forget the scalars of a distillation that has just stopped, or that had stopped before a resume."""
        stopped = distillation_of(runner).distillation_stopped
        if stopped and not self._stopped:
            # mmengine warns of a name that was resumed and is not logged any more.
            for names in (runner.message_hub.log_scalars, runner.message_hub._resumed_keys):
                for name in [name for name in names if name.startswith("train/distill.")]:
                    del names[name]
        self._stopped = stopped

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Log the warm-up's factor."""
        if self._warms_up and not self._stopped:
            runner.message_hub.update_scalar("train/distill.scale", distillation_of(runner).distiller.scale)
