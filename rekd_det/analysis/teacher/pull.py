"""Which rows and which parts of the loss a distillation's gradient comes from."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rekd_det.analysis.teacher.rows import Rows

#: the student's own classification loss, where its rows have a softmax
OWN = "cross-entropy"
GROUPS = ("object", "background")


class Pull:
    """Sums the absolute gradient on the student's logits over rows.

    Each row counts once, as in R-CNN heads; how the head weights its rows and what it divides by is left out, for it is
    the same for all parts.

    Args:
        loss: of the pair, a :class:`rekd_det.models.losses.base.LogitLoss`.
    """

    def __init__(self, loss: Any) -> None:
        self._own_softmax = loss.activation == "softmax"  # a sigmoid head can be read as one ('implicit_bg')
        self._loss = copy.copy(loss)
        self._loss.reduction, self._loss.backend = "sum", "eager"
        self._sums: dict[tuple[str, str], float] = defaultdict(float)
        self._rows: dict[str, int] = defaultdict(int)

    def add(self, rows: Rows) -> None:
        """Count the rows of a batch; those of a head without labels say nothing about objects and are left out."""
        if rows.labels is None or rows.is_object is None:
            return
        self._loss.activation = rows.activation  # the rows have their background already
        student = rows.student.detach().requires_grad_()
        parts, _ = self._loss.components(student, rows.teacher, gt_labels=rows.labels)
        if self._own_softmax and student.shape[1] > rows.num_categories:
            parts[OWN] = F.cross_entropy(student, rows.labels, reduction="sum")
        sizes = {name: _size(value, student) for name, value in parts.items()}
        for group in GROUPS:
            chosen = rows.is_object if group == "object" else ~rows.is_object
            self._rows[group] += int(chosen.sum())
            for name, size in sizes.items():
                self._sums[name, group] += float(size[chosen].sum())

    def table(self) -> list[list[object]]:
        """A line for each part and group of rows, see :data:`HEADER`."""
        lines = []
        for (name, group), total in self._sums.items():
            whole = sum(self._sums[name, g] for g in GROUPS)
            mean = total / max(self._rows[group], 1)
            lines.append([name, group, self._rows[group], f"{mean:.4g}", f"{total / whole if whole else 0.0:.3f}"])
        return lines


#: of the table; a row's gradient is the sum of its absolute values
HEADER = ["part", "rows", "number", "mean gradient of a row", "share of the part"]


def _size(value: Tensor, student: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(value, student, retain_graph=True)
    return gradient.abs().sum(1)
