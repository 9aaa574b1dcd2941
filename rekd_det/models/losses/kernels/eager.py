"""The reference engine: a loss row by row in plain torch, differentiable by autograd any number of times."""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.models.losses.functional import (
    TopKTerms,
    kl_bernoulli,
    kl_softmax,
    scaled,
    sigmoid_terms,
    sigmoid_top_mass,
    top_set,
    topk_kl_terms,
)
from rekd_det.models.losses.kernels.spec import KDSpec


def row_terms(
    student: Tensor, teacher: Tensor, labels: Tensor | None, spec: KDSpec
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parts of a loss and its statistics per row, before ``tau**2`` and row weights.

    Args:
        student: ``(N, C)`` logits, the implicit background appended where the spec has one.
        teacher: ``(N, C)`` logits of the same rows.
        labels: ``(N,)`` int64, for ``spec.select == 'target'``. A row whose label is not a class counts 0 in the parts.
        spec: the loss.

    Returns:
        Parts and statistics by name, each ``(N,)``.
    """
    known = None
    if spec.select == "target":
        assert labels is not None
        known = (labels >= 0) & (labels < student.shape[1])
        top: Tensor | None = labels.where(known, 0)[:, None]
    elif spec.select == "none":
        top = None
    else:
        logits = (teacher if spec.select == "teacher" else student).detach()
        if spec.background is not None:
            logits = logits.clone()
            logits[:, spec.background] = float("-inf")
        top = top_set(logits, spec.top_k, spec.share, spec.tau, spec.activation == "sigmoid")
    terms = (_sigmoid_terms if spec.activation == "sigmoid" else _softmax_terms)(student, teacher, top, spec)
    summands = [terms.kl_mass, terms.kl_top, terms.top_mass * terms.kl_top, terms.kl_tail]
    if known is not None:
        summands = [known * x for x in summands]
    # Numbers, because a tensor of the weights would have to be copied to the device at each step.
    parts = {
        part.name: torch.stack([w * x for w, x in zip(part.weights, summands, strict=True)]).sum(0)
        for part in spec.parts
    }
    return parts, {} if spec.statistic is None else {spec.statistic: terms.top_mass}


def _softmax_terms(student: Tensor, teacher: Tensor, top: Tensor | None, spec: KDSpec) -> TopKTerms:
    if top is None:
        return _tail_alone(kl_softmax(student, teacher, spec.tau))
    return topk_kl_terms(student, teacher, top, spec.tau)


def _sigmoid_terms(student: Tensor, teacher: Tensor, top: Tensor | None, spec: KDSpec) -> TopKTerms:
    if top is not None and not spec.tail_sum:
        return sigmoid_terms(student, teacher, top, spec.tau)
    per_class = kl_bernoulli(student, teacher, spec.tau, spec.gamma)
    if top is None:
        return _tail_alone(per_class.sum(1))
    kl_top, kl_tail = (per_class.masked_fill(left_out, 0.0).sum(1) for left_out in (~top, top))
    return TopKTerms(torch.zeros_like(kl_top), kl_top, kl_tail, sigmoid_top_mass(scaled(teacher, spec.tau), top))


def _tail_alone(kl: Tensor) -> TopKTerms:
    zero = torch.zeros_like(kl)
    return TopKTerms(zero, zero, kl, zero)
