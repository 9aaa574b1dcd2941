"""How to read the classifier of a box head: which logits, how many, and how they become probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.losses import SeesawLoss
from mmdet.models.roi_heads.bbox_heads import MultiInstanceBBoxHead
from torch import Tensor

from rekd_det.structures.logit_meaning import LogitMeaning


@dataclass(frozen=True)
class BBoxLogits:
    """What a box head's classifier gives.

    Args:
        meaning: what they mean.
        num: logits per row after ``read``.
        read: classifier output to the ``(N, num)`` logits that are distilled.
    """

    meaning: LogitMeaning
    num: int
    read: Callable[[Tensor], Tensor]


def bbox_logits(head: Any) -> BBoxLogits:
    """The classifier of a box head.

    Raises:
        TypeError: if its loss gives the logits a meaning that is not known here.
    """
    loss = head.loss_cls
    softmax = LogitMeaning("softmax", background=0 if isinstance(head, MultiInstanceBBoxHead) else head.num_classes)
    if isinstance(loss, SeesawLoss):
        return BBoxLogits(softmax, head.num_classes + 1, joint_seesaw_logits)
    sigmoid = bool(getattr(loss, "use_sigmoid", False))
    if head.custom_cls_channels:  # V3Det: may do without a background logit
        return BBoxLogits(
            LogitMeaning("sigmoid") if sigmoid else softmax, loss.get_cls_channels(head.num_classes), _as_is
        )
    if sigmoid:
        raise TypeError(
            f"{type(head).__name__} with a sigmoid {type(loss).__name__} does not classify by a softmax over its "
            "classes and a background; take a loss that can, as CrossEntropyLoss, with loss_cls.use_sigmoid=False, or "
            "one that says its channels (custom_cls_channels)"
        )
    return BBoxLogits(softmax, head.num_classes + 1, _as_is)


def check_same_logits(student: Any, teacher: Any) -> None:
    """Raise ValueError if the classifiers of two box heads can't be compared."""
    own, other = bbox_logits(student), bbox_logits(teacher)
    if (own.meaning, own.num) != (other.meaning, other.num):
        raise ValueError(
            f"the student's {type(student).__name__} has {own.num} {own.meaning.activation} logits per row, the "
            f"teacher's {type(teacher).__name__} {other.num} {other.meaning.activation} logits: they can't be "
            "compared. Give both the same kind of loss_cls"
        )


def joint_seesaw_logits(output: Tensor) -> Tensor:
    """Logits of the distribution that a Seesaw head predicts with, over its classes and the background.

    The classifier gives ``C`` class logits and two of objectness; the probability of class c is
    ``softmax(classes)_c * softmax(objectness)_0``, that of the background ``softmax(objectness)_1``. Their logarithms
    are logits of exactly this distribution. The loss itself, which counts samples at each call, is not touched.

    Args:
        output: ``(N, C + 2)``.

    Returns:
        ``(N, C + 1)``, background last, fp32.
    """
    classes, objectness = output[:, :-2].float().log_softmax(1), output[:, -2:].float().log_softmax(1)
    return torch.cat([classes + objectness[:, :1], objectness[:, 1:]], dim=1)


def _as_is(output: Tensor) -> Tensor:
    return output
