"""How much each row counts in the distillation."""

from __future__ import annotations

from torch import Tensor

from rekd_det.models.distillers.agreement import foreground
from rekd_det.structures.aligned_logits import AlignedLogits

ROWS = ("all", "object", "teacher")


def check_rows(rows: str) -> None:
    """Raise ValueError for what :func:`row_weight` does not know."""
    if rows not in ROWS:
        raise ValueError(f"model.distiller.rows must be one of {', '.join(map(repr, ROWS))}, got {rows!r}")


def row_weight(entry: AlignedLogits, rows: str) -> Tensor | None:
    """The rows' weights in the distillation; what the sum is divided by stays the head's own.

    Args:
        entry: the rows of one head.
        rows: 'all': as the head's own classification loss weights them. 'object': besides, those alone that are
            labelled with an object's category. 'teacher': besides, each by the teacher's probability of an object in
            it: all but the background's with a softmax, the largest one's with sigmoids.

    Returns:
        ``(N,)`` without gradient, or None for 1.

    Raises:
        ValueError: for 'object', if the head's rows have no labels.
    """
    if rows == "all":
        return entry.weight
    if rows == "object":
        if entry.labels is None:
            raise ValueError(
                f"model.distiller.rows='object': the rows of head {entry.tag!r} have no labels; use 'teacher' or 'all'"
            )
        share = foreground(entry).to(entry.teacher.dtype)
    elif entry.activation == "softmax":
        share = 1 - entry.teacher.softmax(1)[:, -1]
    else:
        share = entry.teacher.amax(1).sigmoid()
    return share if entry.weight is None else share * entry.weight
