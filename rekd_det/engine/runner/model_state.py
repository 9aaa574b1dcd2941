"""State that mmdet's models keep between iterations outside their weights."""

from __future__ import annotations

from mmdet.models import BatchSyncRandomResize, DynamicRoIHead
from mmengine.dist import all_gather_object
from torch import nn

from rekd_det.models.distillers.rekd_distiller import ReKDDistiller
from rekd_det.models.utils.finite_guard import EARLIER, NonFiniteLoss


def input_sizes(model: nn.Module) -> list[tuple[int, int] | None]:
    """The (height, width) that each BatchSyncRandomResize of a model has drawn last, as YOLOX has one."""
    return [module._input_size for module in model.modules() if isinstance(module, BatchSyncRandomResize)]


def set_input_sizes(model: nn.Module, sizes: list) -> None:
    """Undo what was drawn since :func:`input_sizes`."""
    modules = [module for module in model.modules() if isinstance(module, BatchSyncRandomResize)]
    if len(sizes) == len(modules):
        for module, size in zip(modules, sizes, strict=True):
            module._input_size = None if size is None else tuple(size)


def end_if_diverged(model: nn.Module) -> None:
    """Raise NonFiniteLoss in every process if the last step's distillation loss ends the run in one; collective."""
    failed = any(module.failed() for module in model.modules() if isinstance(module, ReKDDistiller))
    if any(all_gather_object(failed)):
        raise NonFiniteLoss(EARLIER)


def forgetful_modules(model: nn.Module) -> list[str]:
    """Names of the parts of a model whose state is not in checkpoints."""
    return sorted({type(module).__name__ for module in model.modules() if isinstance(module, DynamicRoIHead)})
