"""What hooks and runner share."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from rekd_det.models.algorithms.rekd_distill import ReKDDistill


def distillation_of(runner: Runner) -> ReKDDistill:
    """The runner's model without its DDP wrapper.

    Raises:
        TypeError: if it is not a :class:`ReKDDistill`.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(model, ReKDDistill):
        raise TypeError(
            f"this hook serves a ReKDDistill model, not {type(model).__name__}; remove it from custom_hooks"
        )
    return model
