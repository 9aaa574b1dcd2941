"""Check that a checkpoint has the whole model that is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn

from rekd_det.utils.checkpoint import STUDENT_PREFIX, CheckpointError, weights_of


def check_whole(model: nn.Module, checkpoint: Mapping, path: str) -> None:
    """Check that a checkpoint has each parameter of a model in its shape; buffers may be missing.

    mmengine would leave such a weight as it was initialised, and train on.

    Args:
        model: wrapped or not.
        checkpoint: as loaded.
        path: of the checkpoint, for the message.

    Raises:
        CheckpointError: if not; it names the first one.
    """
    weights = {name.removeprefix("module."): value for name, value in weights_of(checkpoint).items()}
    own: Any = model.module if is_model_wrapper(model) else model
    for name, parameter in own.named_parameters():
        found = weights.get(name, weights.get(name.removeprefix(STUDENT_PREFIX)))  # a plain student's
        if found is None or found.shape != parameter.shape:
            has = "lacks it" if found is None else f"has {tuple(found.shape)}"
            raise CheckpointError(
                f"checkpoint '{path}' can't be resumed from: the model's weight '{name}' is {tuple(parameter.shape)}, "
                f"and the checkpoint {has}. Set back what the config changes, or start from its weights alone "
                "(load_from in place of --resume)"
            )
