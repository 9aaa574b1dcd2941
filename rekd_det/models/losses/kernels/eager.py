"""The reference engine: a loss row by row in plain torch, differentiable by autograd as often as one likes."""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.models.losses.functional import TopKTerms, kl_bernoulli, kl_softmax, topk_index, topk_kl_terms
from rekd_det.models.losses.kernels.spec import KDSpec


def row_terms(
    student: Tensor, teacher: Tensor, labels: Tensor | None, spec: KDSpec
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parts of a loss and its statistics per row, before ``tau**2`` and row weights.

    Args:
        student: ``(N, C)`` logits, the implicit background appended where the spec has one.
        teacher: ``(N, C)`` logits of the same rows.
        labels: ``(N,)`` int64, for ``spec.select == 'target'``. A row whose label is no class counts 0 in the parts.
        spec: the loss.

    Returns:
        Parts and statistics by name, each ``(N,)``.
    """
    known = None
    if spec.select == "target":
        assert labels is not None
        known = (labels >= 0) & (labels < student.shape[1])
        index = labels.where(known, 0)[:, None]
    elif spec.select == "none":
        index = None
    else:
        index = topk_index(teacher if spec.select == "teacher" else student, spec.top_k)
    terms = (_sigmoid_terms if spec.activation == "sigmoid" else _softmax_terms)(student, teacher, index, spec)
    stacked = torch.stack([terms.kl_mass, terms.kl_top, terms.top_mass * terms.kl_top, terms.kl_tail])
    if known is not None:
        stacked = stacked * known
    weighted = spec.matrix(stacked) @ stacked
    parts = {part.name: value for part, value in zip(spec.parts, weighted, strict=True)}
    return parts, {} if spec.statistic is None else {spec.statistic: terms.top_mass}


def _softmax_terms(student: Tensor, teacher: Tensor, index: Tensor | None, spec: KDSpec) -> TopKTerms:
    if index is None:
        kl = kl_softmax(student, teacher, spec.tau)
        zero = torch.zeros_like(kl)
        return TopKTerms(zero, zero, kl, zero)
    return topk_kl_terms(student, teacher, index, spec.tau)


def _sigmoid_terms(student: Tensor, teacher: Tensor, index: Tensor | None, spec: KDSpec) -> TopKTerms:
    per_class = kl_bernoulli(student, teacher, spec.tau, spec.gamma)
    if index is None:
        tail = per_class.sum(1)
        zero = torch.zeros_like(tail)
        return TopKTerms(zero, zero, tail, zero)
    p = (teacher.to(per_class.dtype) / spec.tau).sigmoid()
    mass = p.gather(1, index).sum(1) / p.sum(1).clamp(min=1e-12)
    zero = torch.zeros_like(mass)
    return TopKTerms(zero, per_class.gather(1, index).sum(1), per_class.scatter(1, index, 0.0).sum(1), mass)
