"""What hooks, runner and the checks before a run share."""

from __future__ import annotations

import inspect
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from rekd_det.models.algorithms.rekd_distill import ReKDDistill

#: keys at a config's top level that the Runner reads: its arguments, and what it looks up in the config
RUNNER_KEYS = (set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}) | {
    "activation_checkpointing",
    "compile",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "runner_type",
    "sync_bn",
}


def model_of(runner: Runner) -> Any:
    """A Runner's model without what wraps it for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def distillation_of(runner: Runner) -> ReKDDistill:
    """The runner's model without its DDP wrapper.

    Raises:
        TypeError: if it is not a :class:`ReKDDistill`.
    """
    model = model_of(runner)
    if not isinstance(model, ReKDDistill):
        raise TypeError(
            f"this hook serves a ReKDDistill model, not {type(model).__name__}; remove it from custom_hooks"
        )
    return model
