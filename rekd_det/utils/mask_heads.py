"""Tell of a built detector whether it learns masks of objects."""

from __future__ import annotations

from typing import Any

from torch import nn


def needs_masks(model: Any) -> bool:
    """Whether a detector's losses want the masks of objects in the ground truth.

    mmdet's own ``with_mask`` does not say it of RTMDet-Ins, whose masks come from its ``bbox_head``.
    """
    if getattr(model, "with_mask", False):
        return True
    parts = (model, getattr(model, "roi_head", None), getattr(model, "bbox_head", None))
    heads = (getattr(p, name, None) for p in parts for name in ("mask_head", "panoptic_head", "loss_mask"))
    return any(isinstance(h, nn.Module) for h in heads)
