"""The weight that a head's cross entropy gives to rows of each class, on top of a row's own weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ClassWeight:
    """``class_weight`` of a softmax cross entropy (DETR: 0.1 for 'no object').

    With sigmoids mmdet weights the positive term of a category with it, not the row; it has no effect here.

    Args:
        loss: a head's classification loss.
    """

    def __init__(self, loss: Any) -> None:
        weight = getattr(loss, "class_weight", None)
        if weight is None or getattr(loss, "use_sigmoid", False):
            self._weight: Tensor | None = None
        else:
            self._weight = torch.as_tensor(weight, dtype=torch.float)

    def __call__(self, labels: Tensor, weight: Tensor | None) -> Tensor | None:
        """The rows' weights ``(N,)`` with their classes' in them.

        Args:
            labels: ``(N,)`` class indices; for an ignored row, whose weight is 0, it may be any number.
            weight: the rows' own weights, or None for 1.
        """
        if self._weight is None:
            return weight
        self._weight = self._weight.to(labels.device)  # moves once
        by_class = self._weight[labels.clamp(0, len(self._weight) - 1)]
        return by_class if weight is None else by_class * weight
