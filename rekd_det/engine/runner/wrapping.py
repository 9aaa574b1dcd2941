"""How several processes can train a distillation's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from rekd_det.models.algorithms.rekd_distill import ReKDDistill
from rekd_det.utils.config_types import type_name
from rekd_det.utils.errors import InputError


def check_wrapper(cfg: Config, wrapper: Mapping | None, model: nn.Module) -> None:
    """Refuse a wrapper that can't train a distillation, and let DDP expect parameters without a gradient.

    Args:
        cfg: the Runner's config; its ``find_unused_parameters`` may be set.
        wrapper: ``model_wrapper_cfg``; changed likewise.
        model: what is to be wrapped; anything but a distillation is left to its config.

    Raises:
        InputError: if the wrapper can't train it, or not with the student's options.
    """
    if not isinstance(model, ReKDDistill):
        return
    name = type_name((wrapper or {}).get("type", "MMDistributedDataParallel"))
    if "FullySharded" in name or "FSDP" in name:
        raise InputError(
            f"model_wrapper_cfg.type='{name}' is not supported: a distillation calls single layers of both heads, past "
            "the wrapper that would gather their shards. Use MMDistributedDataParallel; --amp, teacher_dtype='bf16' "
            "and the backbone's with_cp=True save memory"
        )
    if "Separate" in name:
        raise InputError(
            f"model_wrapper_cfg.type='{name}' is not supported: it wraps the student and the distiller one by one, and "
            "changes the names of the student's weights in the checkpoint. Use MMDistributedDataParallel"
        )
    if model.calculate_student_loss:
        return
    target: Any = cfg if wrapper is None else wrapper
    recomputes = any(getattr(module, "with_cp", False) for module in model.architecture.modules())
    if recomputes and not target.get("static_graph"):
        raise InputError(
            "model.calculate_student_loss=False with several processes does not go with the backbone's with_cp=True: "
            "DDP then looks for weights without a gradient, and can't see into what with_cp computes a second time. "
            "Leave one of the two out, or set model_wrapper_cfg=dict(type='MMDistributedDataParallel', "
            "static_graph=True, broadcast_buffers=False)"
        )
    hooks = {type_name(hook.get("type")) for hook in cfg.get("custom_hooks") or [] if isinstance(hook, Mapping)}
    if target.get("static_graph") and "StopDistillHook" in hooks:
        raise InputError(
            "model_wrapper_cfg.static_graph=True with model.calculate_student_loss=False does not go with "
            "StopDistillHook: from its epoch on the student's own losses train, which changes the graph. Leave one of "
            "the three out"
        )
    if not target.get("find_unused_parameters"):
        target["find_unused_parameters"] = True
        print_log(
            "find_unused_parameters is set to True: with calculate_student_loss=False the student's box branches get "
            "no gradient, and DDP would wait for one",
            logger="current",
        )
