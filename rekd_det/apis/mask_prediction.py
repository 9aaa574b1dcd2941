"""Tell from a detector's config whether it predicts masks of objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.models import RTMDetInsHead
from mmdet.registry import MODELS

from rekd_det.utils.config_types import type_class

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
