"""The data that passes from a head adapter to a distillation loss.

Shape legend used throughout the package:

    B   images in the batch
    N   rows: RoIs, anchors, points or queries that reach the head's classification loss
    C   class logits per row (background included where the head has a background logit)
    K   size of a row's top-K set; the other categories are its tail
    tau temperature
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
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
        meaning: what the logits mean; None for a softmax with the background last, as MMDetection's heads mean it.
        tag: names the head in the log when there are several ('s0' for stage 0); '' where there is one.
        loss_weight: the head's own share in the total, e.g. a cascade's stage weight.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor | None = None
    weight: Tensor | None = None
    avg_factor: Tensor | float | None = None
    meaning: LogitMeaning = None  # type: ignore[assignment]  # filled in below
    tag: str = ""
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.meaning is None:
            self.meaning = LogitMeaning.usual("softmax", self.num_logits)

    @property
    def num_rows(self) -> int:
        """N."""
        return self.student.shape[0]

    @property
    def num_logits(self) -> int:
        """C."""
        return self.student.shape[-1]

    def levels(self) -> list[AlignedLogits]:
        """The rows in pieces that need no copy; what is a sum over the rows is the sum over the pieces."""
        return [self]

    def pick(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Student's and teacher's logits ``(M, C)`` of the rows ``(M,)`` int64, without gradient."""
        return self.student.detach()[rows], self.teacher[rows]

    @property
    def is_object(self) -> Tensor | None:
        """Which rows are labelled with an object's category: bool ``(N,)``; None where the rows have no labels."""
        if self.labels is None:
            return None
        return self.meaning.is_object(self.labels, self.num_logits)


class AlignedLevels(AlignedLogits):
    """Rows in one tensor per pyramid level, which losses process one by one.

    ``student`` and ``teacher`` are the levels in one tensor, concatenated on first access.

    Args:
        students: ``(N_l, C)`` logits of each level, attached to the graph.
        teachers: the same rows' logits, without gradient.
        labels, weight: of all N rows, ``(N,)``, or None.
        avg_factor, meaning: see :class:`AlignedLogits`.
    """

    def __init__(
        self,
        students: Sequence[Tensor],
        teachers: Sequence[Tensor],
        labels: Tensor | None,
        weight: Tensor | None,
        avg_factor: Tensor | float | None,
        meaning: LogitMeaning,
    ) -> None:
        self._students, self._teachers = list(students), list(teachers)
        self.labels, self.weight, self.avg_factor, self.meaning = labels, weight, avg_factor, meaning

    @cached_property
    def student(self) -> Tensor:  # type: ignore[override]
        with torch.enable_grad():
            return torch.cat(self._students)

    @cached_property
    def teacher(self) -> Tensor:  # type: ignore[override]
        return torch.cat(self._teachers)

    @property
    def num_rows(self) -> int:
        return sum(self._sizes)

    @property
    def num_logits(self) -> int:
        return self._students[0].shape[-1]

    @property
    def _sizes(self) -> list[int]:
        return [len(level) for level in self._students]

    def levels(self) -> list[AlignedLogits]:
        count = len(self._sizes)
        labels = [None] * count if self.labels is None else self.labels.split(self._sizes)
        weight = [None] * count if self.weight is None else self.weight.split(self._sizes)
        # The number of all rows, where the sum is divided by it: a level does not know the others.
        avg_factor = float(max(self.num_rows, 1)) if self.avg_factor is None else self.avg_factor
        return [
            AlignedLogits(s, t, of, w, avg_factor, self.meaning, self.tag, self.loss_weight)
            for s, t, of, w in zip(self._students, self._teachers, labels, weight, strict=True)
        ]

    def pick(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        picked: tuple[Tensor, Tensor] | None = None
        first = 0
        for student, teacher in zip(self._students, self._teachers, strict=True):
            if not len(student):
                continue
            at = (rows - first).clamp(0, len(student) - 1)
            found = student.detach()[at], teacher[at]
            if picked is not None:
                here = (rows >= first)[:, None]
                found = found[0].where(here, picked[0]), found[1].where(here, picked[1])
            picked, first = found, first + len(student)
        return super().pick(rows) if picked is None else picked
