"""The data that passes from a head adapter to a distillation loss.

Shape legend used throughout the package:

    B   images in the batch
    N   rows: RoIs, anchors, points or queries that reach the head's classification loss
    C   class logits per row (background included where the head has a background logit)
    K   size of the head set: the top-K categories of a row ("head" and "tail" are sets of *categories*)
    tau temperature
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class AlignedLogits:
    """Student's and teacher's classification logits of the same rows, in the same order.

    Args:
        student: ``(N, C)`` logits, attached to the graph.
        teacher: ``(N, C)`` logits, without gradient.
        labels: ``(N,)`` int64 assigned class per row (the background index where nothing is assigned), or None where
            the head's targets are not class indices.
        weight: ``(N,)`` weight per row, as the head's own classification loss uses it, or None for 1.
        avg_factor: what the sum over rows is divided by; None for the number of rows.
        activation: how this head turns logits into probabilities: 'softmax', 'sigmoid'.
        tag: names the head in the log when there are several ('s0' for stage 0); '' where there is one.
        loss_weight: the head's own share in the total, e.g. a cascade's stage weight.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor | None = None
    weight: Tensor | None = None
    avg_factor: Tensor | float | None = None
    activation: str = "softmax"
    tag: str = ""
    loss_weight: float = 1.0
