"""Match the teacher's queries to the student's, if the queries are learned.

Learned queries have no order: query 7 of one network and query 7 of another look at different objects. So the two sets
of *predictions* are matched one to one, per image and per decoder layer, by the Hungarian algorithm, as DETRDistill
(Chang et al., ICCV 2023, "Hungarian-matching logits distillation") and D3ETR's adaptive matching (IJCAI 2024) do.

The costs here are distances between predictions (0 for equal ones, never negative), not the likelihoods that a detector
uses to match predictions to ground truth. So equal networks match by the identity, and that is the optimum.

Shape legend: L decoder layers, B images, Q queries of the student, R queries of the teacher, C class logits.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from scipy.optimize import linear_sum_assignment
from torch import Tensor

#: rows of the student and of the teacher that belong together, as indices into ``B * Q`` and ``B * R`` flattened rows
Pairs = tuple[Tensor, Tensor]

#: weights of the parts of a cost; those of Deformable DETR's and Mask2Former's own assigners
CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
MASK_WEIGHT, DICE_WEIGHT = 5.0, 5.0

#: masks are compared at no more than this many pixels per side: enough to identify the object
MASK_SIDE = 64

# What rounding may add to the cost of a pair of equal predictions.
_TOLERANCE = 1e-5


def match(cost: Tensor) -> list[Pairs | None]:
    """Optimal one-to-one pairs for each decoder layer.

    The costs of all layers travel to the CPU together, so a step waits for the GPU once for them.

    Args:
        cost: ``(L, B, Q, R)``, finite.

    Returns:
        Per layer the rows that belong together, student's rows in ascending order; None where all of them are matched
        to the teacher's row of the same index (and nothing need be gathered). ``min(Q, R)`` rows per image: a student
        with more queries than the teacher keeps those that fit best. A tie goes to the identity.
    """
    layers, images, queries, others = cost.shape
    count = min(queries, others)
    # The GPU has nothing to do meanwhile, and scipy lets other threads run.
    with ThreadPoolExecutor() as pool:
        assigned = list(pool.map(_assign, cost.flatten(0, 1).cpu().numpy()))
    found = np.array(assigned, dtype=np.int64).reshape(layers, images, 2, count).swapaxes(1, 2)
    same = queries == others
    straight = [bool(same and (found[i, 1] == np.arange(count)).all()) for i in range(layers)]
    found += np.arange(images)[:, None] * np.array([queries, others])[:, None, None]
    if all(straight):
        return [None] * layers
    index = torch.from_numpy(found.reshape(layers, 2, -1)).to(cost.device)
    return [None if straight[i] else (index[i, 0], index[i, 1]) for i in range(layers)]


def _assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = linear_sum_assignment(cost)
    if cost.shape[0] == cost.shape[1]:
        identity = np.arange(len(cost))
        if np.trace(cost) <= cost[rows, columns].sum() + _TOLERANCE * len(cost):
            return identity, identity
    return rows, columns


def class_cost(student: Tensor, teacher: Tensor, activation: str) -> Tensor:
    """L1 distance between class probabilities.

    Args:
        student: ``(..., Q, C)`` logits.
        teacher: ``(..., R, C)`` logits.
        activation: 'softmax' or 'sigmoid'.

    Returns:
        ``(..., Q, R)``, weighted. Logits that are not finite count as probability 0; the guard on the losses reports
        them.
    """
    p, q = (_probabilities(x.float(), activation) for x in (student, teacher))
    return CLASS_WEIGHT * torch.cdist(p, q, p=1)


def box_cost(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 distance and ``1 - GIoU`` between boxes.

    Args:
        student: ``(..., Q, 4)`` boxes (cx, cy, w, h), normalised by the image's size.
        teacher: ``(..., R, 4)``, the same.

    Returns:
        ``(..., Q, R)``, weighted.
    """
    a, b = (x.float().nan_to_num(0.0) for x in (student, teacher))
    giou = bbox_overlaps(bbox_cxcywh_to_xyxy(a), bbox_cxcywh_to_xyxy(b), mode="giou")
    return L1_WEIGHT * torch.cdist(a, b, p=1) + GIOU_WEIGHT * (1 - giou)


def mask_cost(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference and (squared) dice distance between masks.

    Args:
        student: ``(B, Q, h, w)`` mask logits.
        teacher: ``(B, R, h', w')`` mask logits of the same images.

    Returns:
        ``(B, Q, R)``, weighted.
    """
    size = [min(side, MASK_SIDE) for side in student.shape[-2:]]
    a, b = (
        F.interpolate(x.float(), size, mode="bilinear", align_corners=False).nan_to_num(0.0).sigmoid().flatten(2)
        for x in (student, teacher)
    )
    with torch.autocast(a.device.type, enabled=False):  # the tie to the identity needs fp32
        product = a @ b.transpose(1, 2)
    squares = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None]
    dice = 1 - (2 * product + 1) / (squares + 1)
    return MASK_WEIGHT * (squares - 2 * product).clamp(min=0) / a.shape[-1] + DICE_WEIGHT * dice.clamp(min=0)


def _probabilities(logits: Tensor, activation: str) -> Tensor:
    return (logits.sigmoid() if activation == "sigmoid" else logits.softmax(-1)).nan_to_num(0.0)
