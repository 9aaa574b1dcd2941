"""Images of noise with random objects, in the form that a detector is trained on."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import FastRCNN
from mmdet.testing import demo_mm_inputs
from mmengine.structures import InstanceData
from torch import nn


def generated_data(
    detector: Any, num_classes: int, size: tuple[int, int], images: int, objects: int, with_semantic: bool
) -> dict:
    """What a data loader would give for a training step of a detector, the same at each call.

    Objects have boxes, masks where the detector learns them, and each image has proposals where it takes them from the
    data.

    Args:
        detector: the detector to train.
        num_classes: labels are drawn below it.
        size: (height, width) in pixels.
        images: how many.
        objects: objects of each image.
        with_semantic: whether images have a semantic map.

    Returns:
        ``dict(inputs=[(3, H, W) uint8, ...], data_samples=[...])``, not preprocessed yet.
    """
    data = demo_mm_inputs(
        images,
        [[3, *size]] * images,
        num_items=[objects] * images,
        num_classes=max(num_classes, 2),  # mmdet's generator leaves class 0 out
        with_mask=needs_masks(detector),  # not for all: RTMDet's assigner would use them
        with_semantic=with_semantic,
    )
    for sample in data["data_samples"]:
        sample.gt_instances.labels %= num_classes
        if isinstance(detector, FastRCNN):
            sample.proposals = _proposals(sample.gt_instances.bboxes, size)
    return data


def needs_masks(model: Any) -> bool:
    """Whether a detector's losses want the masks of objects in the ground truth.

    mmdet's own ``with_mask`` does not say it of RTMDet-Ins, whose masks come from its ``bbox_head``.
    """
    if getattr(model, "with_mask", False):
        return True
    parts = (model, getattr(model, "roi_head", None), getattr(model, "bbox_head", None))
    heads = (getattr(p, name, None) for p in parts for name in ("mask_head", "panoptic_head", "loss_mask"))
    return any(isinstance(h, nn.Module) for h in heads)


def _proposals(objects: Any, size: tuple[int, int]) -> InstanceData:
    """The boxes of the objects, and 30 random ones."""
    height, width = size
    corners = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([width, height] * 2)
    boxes = torch.cat([corners.view(-1, 2, 2).amin(1), corners.view(-1, 2, 2).amax(1) + 4], dim=1)
    return InstanceData(bboxes=torch.cat([getattr(objects, "tensor", objects), boxes]))
