"""Hooks for mmengine's Runner."""

from __future__ import annotations

import re

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmrazor.registry import HOOKS

from .algorithm import ReKDDistill
from .errors import InputError

#: names of a distillation's scalars, but for the factor of its warm-up, which is exact at each step
_STATISTICS = r"distill\.(?!scale$)"


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
        distillation(runner).distiller.scale = min(1.0, (runner.iter + 1) / self.iters)


@HOOKS.register_module()
class DistillLogHook(Hook):
    """Log what a person reads of a distillation, through mmengine's own log and visualizer backends.

    mmengine averages names with "loss" in them over its window and shows of all others the newest value. The
    statistics of a distillation ('distill.head_mass', 'distill.agreement') are of one batch and as noisy as a loss, so
    they are averaged as well. During a warm-up its factor is logged as 'distill.scale'.
    """

    priority = "NORMAL"  # before LoggerHook

    def before_train(self, runner: Runner) -> None:
        """Extend the log's averaging to the statistics."""
        processor = runner.log_processor
        processor.mean_pattern = re.compile(rf"{processor.mean_pattern.pattern}|{_STATISTICS}")
        self._warms_up = any(isinstance(hook, DistillWarmupHook) for hook in runner.hooks)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Log the warm-up's factor."""
        if self._warms_up:
            runner.message_hub.update_scalar("train/distill.scale", distillation(runner).distiller.scale)


@HOOKS.register_module()
class PairCheckHook(Hook):
    """Before training: teacher, student and data set must mean the same category by the same index."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Raise InputError where the categories differ in number or order."""
        classes = runner.train_dataloader.dataset.metainfo.get("classes")
        if classes is None:
            return
        model = distillation(runner)
        teacher = model.teacher_classes
        if teacher is None:
            print_log(
                "the teacher's checkpoint does not name its categories; their order can't be checked",
                logger="current",
            )
            return
        check_categories(tuple(classes), teacher)


def check_categories(data: tuple[str, ...], teacher: tuple[str, ...]) -> None:
    """Raise InputError, naming the first difference, unless both name the same categories in the same order.

    Args:
        data: category names of the data set, by label.
        teacher: category names the teacher was trained with, by label.
    """
    if len(data) != len(teacher):
        raise InputError(
            f"the data set has {len(data)} categories, the teacher was trained on {len(teacher)}. Take a teacher "
            "trained on this data set's categories, or set metainfo.classes of the data set"
        )
    for label, (ours, theirs) in enumerate(zip(data, teacher, strict=True)):
        if ours != theirs:
            raise InputError(
                f"category {label} is {ours!r} in the data set and {theirs!r} for the teacher: the order differs. "
                "Set metainfo.classes of the data set to the teacher's order"
            )


def distillation(runner: Runner) -> ReKDDistill:
    """The runner's model, out of its DDP wrapper.

    Raises:
        TypeError: if it is no :class:`ReKDDistill`.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(model, ReKDDistill):
        raise TypeError(
            f"this hook serves a ReKDDistill model, not {type(model).__name__}; take it out of custom_hooks"
        )
    return model
