"""The data that passes from a head adapter to a distillation loss.

Shape legend used throughout the package:

    B   images in the batch
    N   rows: RoIs, anchors, points or queries that reach the head's classification loss
    C   class logits per row (background included where the head has a background logit)
    K   size of a row's top-K set; the other categories are its tail
    tau temperature
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass

from torch import Tensor

from rekd_det.structures.logit_meaning import LogitMeaning


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
        meaning: what the logits mean. Without it, what MMDetection's heads usually mean by ``activation``.
        tag: names the head in the log when there are several ('s0' for stage 0); '' where there is one.
        loss_weight: the head's own share in the total, e.g. a cascade's stage weight.
        activation: 'softmax' or 'sigmoid', in place of ``meaning`` (as adapters said it at first).
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor | None = None
    weight: Tensor | None = None
    avg_factor: Tensor | float | None = None
    meaning: LogitMeaning = None  # type: ignore[assignment]  # filled in below
    tag: str = ""
    loss_weight: float = 1.0
    activation: InitVar[str | None] = None

    def __post_init__(self, activation: str | None) -> None:
        if isinstance(self.meaning, str):  # as adapters said it at first
            self.meaning, activation = None, self.meaning  # type: ignore[assignment]
        if self.meaning is None:
            self.meaning = LogitMeaning.usual(activation or "softmax", self.student.shape[-1])

    @property
    def is_object(self) -> Tensor | None:
        """Which rows are labelled with an object's category: bool ``(N,)``; None where the rows have no labels."""
        if self.labels is None:
            return None
        return self.meaning.is_object(self.labels, self.student.shape[1])
