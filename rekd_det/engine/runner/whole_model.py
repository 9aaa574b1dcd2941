"""Check that a checkpoint has what a resumed training needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from rekd_det.engine.runner.generators_hook import warn_inexact
from rekd_det.engine.utils import model_of
from rekd_det.utils.checkpoint_content import STUDENT_PREFIX, weights_of
from rekd_det.utils.errors import CheckpointError


def check_whole(runner: Runner, checkpoint: Mapping, path: str) -> None:
    """Check that a checkpoint has each parameter of the model in its shape, and the config's learning rate schedule.

    mmengine would leave such a weight as it was initialised, start the schedule again, give a schedule the state of
    another, and train on. Buffers may be missing. A missing optimizer state, and averaged weights without EMAHook, are
    logged.

    Args:
        runner: that resumes.
        checkpoint: as loaded.
        path: of the checkpoint, for the message.

    Raises:
        CheckpointError: if not; it names the first weight.
    """
    if runner.param_schedulers and "param_schedulers" not in checkpoint:
        raise CheckpointError(
            f"checkpoint '{path}' can't be resumed from: it has no learning rate schedule, which would start again. "
            "The best checkpoint has none, nor has one that was saved with save_param_scheduler=False. Resume from an "
            "epoch_*.pth or iter_*.pth, or start from its weights alone (load_from in place of --resume)"
        )
    own_parts, parts = _parts(runner.param_schedulers), _parts(checkpoint.get("param_schedulers"))
    if own_parts != parts:
        raise CheckpointError(
            f"checkpoint '{path}' can't be resumed from: it holds the state of another learning rate schedule. Its "
            f"schedulers have {_told(parts)}; those of param_scheduler have {_told(own_parts)}. Set param_scheduler "
            "back, or start from the weights alone (load_from in place of --resume)"
        )
    if "optimizer" not in checkpoint:
        warn_inexact("the checkpoint has no state of the optimizer; momentum starts anew")
    if "ema_state_dict" in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
        warn_inexact("the checkpoint's weights are EMAHook's average, and the config has no EMAHook any more")
    weights = {name.removeprefix("module."): value for name, value in weights_of(checkpoint).items()}
    for name, parameter in model_of(runner).named_parameters():
        found = weights.get(name, weights.get(name.removeprefix(STUDENT_PREFIX)))  # a plain student's
        if found is None or found.shape != parameter.shape:
            has = "lacks it" if found is None else f"has {tuple(found.shape)}"
            raise CheckpointError(
                f"checkpoint '{path}' can't be resumed from: the model's weight '{name}' is {tuple(parameter.shape)}, "
                f"and the checkpoint {has}. Set back what the config changes, or start from its weights alone "
                "(load_from in place of --resume)"
            )


def _parts(schedulers: Any) -> list[tuple[str, ...]]:
    """The names of each scheduler's options and counters, which differ from type to type."""
    if isinstance(schedulers, Mapping):
        schedulers = [part for name in sorted(schedulers) for part in schedulers[name]]
    return [tuple(sorted(x if isinstance(x, Mapping) else x.state_dict())) for x in schedulers or []]


def _told(parts: list[tuple[str, ...]]) -> str:
    counters = {"base_values", "last_step", "_global_step", "_last_value", "verbose", "by_epoch", "begin", "end"}
    return "; ".join(", ".join(name for name in part if name not in counters) for part in parts) or "none"
