"""Tell from a detector's config whether it predicts masks of objects, and whether it gets some to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmdet.models import RTMDetInsHead
from mmdet.registry import MODELS

from rekd_det.utils.config_types import type_class, type_name
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import trained_model

_MASK_WORDS = ("mask", "seg", "semantic", "panoptic")


def predicts_masks(model: Any) -> bool | None:
    """Whether a detector predicts a mask of each object; None where its config does not tell.

    Args:
        model: the config of a detector, not of a pair. A part that is not mmdet's own may do anything.
    """
    if not isinstance(model, Mapping):
        return None
    roi_head = model.get("roi_head") or {}
    bbox_head = model.get("bbox_head") or roi_head.get("bbox_head") or {}
    box_heads = bbox_head if isinstance(bbox_head, (list, tuple)) else [bbox_head]
    kinds = [type_class(part.get("type"), MODELS) for part in (model, *filter(None, (roi_head, *box_heads)))]
    if model.get("mask_head") or roi_head.get("mask_head"):
        return True
    if any(kind is not None and issubclass(kind, RTMDetInsHead) for kind in kinds):
        return True
    if model.get("panoptic_head"):
        return True if (model.get("test_cfg") or {}).get("instance_on", True) else None
    named = [name for part in (model, roi_head) for name, value in part.items() if value]
    known = all(kind is not None and kind.__module__.startswith("mmdet.models.") for kind in kinds)
    if len(kinds) < 2 or not known or any(word in name for name in named for word in _MASK_WORDS):
        return None
    return False


def check_masks_loaded(model: Any, datasets: Iterable[tuple[str, Mapping]]) -> None:
    """Raise InputError if a mask head of an R-CNN or RTMDet-Ins would get no masks: mmdet fails at the first step then.

    Args:
        model: the config of a detector, or of a pair, whose student is meant.
        datasets: config key and config of each training set.
    """
    key, model = trained_model(model)
    if not isinstance(model, Mapping):
        return
    if (model.get("roi_head") or {}).get("mask_head"):
        learns = "roi_head.mask_head"
    elif type_class((model.get("bbox_head") or {}).get("type"), MODELS) is RTMDetInsHead:
        learns = "bbox_head"
    else:
        return
    for name, dataset in datasets:
        steps = [step for step in dataset.get("pipeline") or [] if isinstance(step, Mapping)]
        loading = [step for step in steps if type_name(step.get("type")) == "LoadAnnotations"]
        if loading and not any(step.get("with_mask") for step in loading):
            raise InputError(
                f"{name}.pipeline: LoadAnnotations loads no masks, and {key}.{learns} learns from them: set "
                "with_mask=True"
            )
