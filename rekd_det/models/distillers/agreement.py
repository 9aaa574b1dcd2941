"""How often student and teacher agree on a row's first category: a statistic for the log."""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.structures.aligned_logits import AlignedLogits

#: Of more rows than this only some are used: an argmax over every anchor of a dense head would be a pass of its own.
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
    few = entry.num_rows <= MAX_ROWS
    if entry.labels is None and not few:
        return None
    weight = None if entry.weight is None else entry.weight.float()
    is_object = entry.is_object
    if is_object is not None and not (few and entry.meaning.background is not None):
        weight = is_object.float() if weight is None else weight * is_object
    if few:
        same = torch.cat([level.student.detach().argmax(1) == level.teacher.argmax(1) for level in entry.levels()])
    else:
        assert weight is not None  # many rows without labels are given up above
        weight, chosen = weight.topk(MAX_ROWS, sorted=False)
        student, teacher = entry.pick(chosen)
        same = student.argmax(1) == teacher.argmax(1)
    if weight is None:
        weight = torch.ones_like(same, dtype=torch.float32)
    return (same * weight).sum() / weight.sum().clamp(min=torch.finfo(torch.float32).eps)
