"""The layout of a dense head's rows, and whether the rows of two heads correspond."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rekd_det.models.adapters.base import check_same_classes
from rekd_det.structures.logit_meaning import LogitMeaning


@dataclass(frozen=True)
class Layout:
    """The rows of a dense head.

    Two heads' rows correspond one to one exactly if their layouts are equal: the same cells in each level, the same
    number of priors in each cell (anchors of the same shapes where there are several), and logits of the same meaning.

    Args:
        unit: what ``cells`` counts, for messages: 'strides' in pixels, or 'grids' with cells per side.
        cells: one number per pyramid level.
        priors: rows per cell, one number per level.
        num_classes: foreground classes.
        num_logits: C, logits per row.
        meaning: what they mean.
        anchors: the anchors of one cell ``(A, 4)`` per level, in pixels; () for points.
    """

    unit: str
    cells: tuple[float, ...]
    priors: tuple[int, ...]
    num_classes: int
    num_logits: int
    meaning: LogitMeaning
    anchors: tuple[Tensor, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        cells = ", ".join(f"{c:g}" for c in self.cells)
        return f"{self.unit} ({cells}) with {_numbers(self.priors)} per location"


def grid_layout(head: Any, num_logits: int, conditional: bool) -> Layout:
    """The layout of a head with anchors or points on the cells of feature maps.

    Args:
        head: the head.
        num_logits: C; a softmax head has one more than it has classes, the last one, for the background.
        conditional: see :class:`LogitMeaning`.
    """
    softmax = num_logits > head.num_classes
    meaning = LogitMeaning("softmax" if softmax else "sigmoid", head.num_classes if softmax else None, conditional)
    generator = getattr(head, "prior_generator", None) or head.square_anchor_generator
    priors = tuple(generator.num_base_priors)
    # A single square anchor per cell is equivalent to a point: only the cell matters.
    anchors = tuple(getattr(generator, "base_anchors", ())) if max(priors) > 1 else ()
    strides = tuple(float(s[0] if isinstance(s, (tuple, list)) else s) for s in generator.strides)
    return Layout("strides", strides, priors, head.num_classes, num_logits, meaning, anchors)


def check_same_layout(student: Any, teacher: Any, own: Layout, other: Layout) -> None:
    """Raise ValueError, with the numbers, unless the rows of the two heads correspond."""
    name, source = type(student).__name__, type(teacher).__name__
    check_same_classes(name, own.num_classes, other.num_classes)
    if (own.unit, own.cells, own.priors) != (other.unit, other.cells, other.priors):
        raise ValueError(
            f"rows of the student's {name} and of the teacher's {source} do not correspond: the student has {own}, "
            f"the teacher {other}. Take a teacher with the student's strides and priors per location"
        )
    if (own.meaning.activation, own.num_logits) != (other.meaning.activation, other.num_logits):
        raise ValueError(
            f"the student's {name} has {own.num_logits} {own.meaning.activation} logits per row, the teacher's "
            f"{source} {other.num_logits} {other.meaning.activation} logits: they can't be compared"
        )
    if own.meaning.conditional != other.meaning.conditional:
        apart, within = (name, source) if own.meaning.conditional else (source, name)
        raise ValueError(
            f"{apart} has a separate objectness, so its class logits are valid only if there is an object; "
            f"those of {within} include it. Student and teacher must be of the same kind"
        )
    if own.anchors and other.anchors and not all(map(_same, own.anchors, other.anchors)):
        raise ValueError(
            f"the student's {name} and the teacher's {source} have as many anchors per location but other shapes; "
            "give both the same anchor_generator"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a.cpu(), b.cpu(), rtol=1e-3, atol=1e-3))


def _numbers(priors: tuple[int, ...]) -> str:
    shown = str(priors[0]) if len(set(priors)) == 1 else "/".join(map(str, priors))
    return f"{shown} prior" + ("s" if shown != "1" else "")
