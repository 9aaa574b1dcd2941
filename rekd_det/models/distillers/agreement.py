"""How often student and teacher agree on a row's first category: a statistic for the log."""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.structures.aligned_logits import AlignedLogits

#: More rows than this are not all looked at: an argmax over every anchor of a dense head would be a pass of its own.
MAX_ROWS = 4096


def top1_agreement(entry: AlignedLogits) -> Tensor | None:
    """The share of rows whose largest logit is the same category for student and teacher.

    Rows count by their weight. A head with a background logit is asked about all rows it samples; where the logits are
    of categories alone (sigmoid), "which is largest" means something only where there is an object, so the rows
    with a foreground label count. Of more than ``MAX_ROWS`` rows only those with a foreground label are taken, and of
    these at most ``MAX_ROWS``. Their number never reaches the host, so nothing waits for the GPU.

    Args:
        entry: the rows of one head.

    Returns:
        Detached scalar in [0, 1], 0 where no row counts. None where the rows are many and nothing tells which of them
        are objects.
    """
    student, teacher = entry.student.detach(), entry.teacher
    few = len(student) <= MAX_ROWS
    if entry.labels is None and not few:
        return None
    weight = student.new_ones(len(student), dtype=torch.float32) if entry.weight is None else entry.weight.float()
    is_object = entry.is_object
    if is_object is not None and not (few and entry.meaning.background is not None):
        weight = weight * is_object
    if not few:
        weight, chosen = weight.topk(MAX_ROWS)
        student, teacher = student[chosen], teacher[chosen]
    same = student.argmax(1) == teacher.argmax(1)
    return (same * weight).sum() / weight.sum().clamp(min=torch.finfo(torch.float32).eps)
