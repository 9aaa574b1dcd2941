"""The weight of each row in the distillation."""

from __future__ import annotations

from torch import Tensor

from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning

#: the ways of :func:`row_weight`
ROWS = ("all", "object", "teacher")


def check_rows_have_scores(row_weighting: str, meaning: LogitMeaning, head: str) -> None:
    """Raise ValueError, before training, if the teacher's logits do not give the probability of an object.

    Args:
        row_weighting: see :func:`row_weight`.
        meaning: of the head's logits.
        head: its name, for the message.
    """
    reason = meaning.why_no_object_score()
    if row_weighting == "teacher" and reason:
        raise ValueError(
            "model.distiller.rows='teacher' weighs each row by the teacher's probability of an object in it, which "
            f"{head} does not give: {reason}. Use 'all' or 'object'"
        )


def row_weight(entry: AlignedLogits, row_weighting: str) -> Tensor | None:
    """The rows' weights in the distillation; what the sum is divided by stays the head's own.

    Args:
        entry: the rows of one head.
        row_weighting: 'all': as the head's own classification loss weights them. 'object': besides, those alone that
            are labelled with an object's category. 'teacher': besides, each by the teacher's probability of an object
            in it: all but the background's with a softmax, the largest one's with sigmoids.

    Returns:
        ``(N,)`` without gradient, or None for 1.

    Raises:
        ValueError: for 'object', if the head's rows have no labels; for 'teacher', if its logits don't tell.
    """
    if row_weighting == "all":
        return entry.weight
    if row_weighting == "object":
        labelled = entry.is_object
        if labelled is None:
            raise ValueError(
                f"model.distiller.rows='object': the rows of head {entry.tag!r} have no labels; use 'teacher' or 'all'"
            )
        share = labelled.float()  # sums of more than 256 ones are not exact in bfloat16
    else:
        share = entry.meaning.object_score(entry.teacher)
    return share if entry.weight is None else share * entry.weight
