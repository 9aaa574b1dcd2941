"""Losses and closed-form gradients in vectorised torch, block of rows by block of rows.

The naive formulation moves some twenty ``(N, C)`` tensors through main memory. Here a block of rows passes through all
steps while its temporaries are in the cache; only the gradient is written out.

Shape legend: ``N`` rows, ``C`` logits, ``K`` head size, ``R`` rows of a block, ``W`` columns of a block (C, or C + 1
with an implicit background). Row quantities are ``(R, 1)``. ``x`` is a logit, ``e`` its shifted exponential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rekd_det.models.losses.functional import topk_index
from rekd_det.models.losses.kernels.function import LossInputs
from rekd_det.models.losses.kernels.spec import KDSpec

# A logit below this is a masked class. As in the oracle: exp() of it is 0, and products with it stay finite.
_MASKED = -1.0e9
# Where a class is taken out of the tail, it must stay below a tail that is masked altogether.
_OUT = 2 * _MASKED
# 2048 rows of 80 classes: a handful of fp32 temporaries of this size share a core's L2 cache.
_CPU_BLOCK = 2048 * 80
_DEVICE_BLOCK = 1 << 22
_MAX_SWEEPS = 12
_EXP_FLOOR = {torch.float32: -60.0, torch.float64: -500.0}

#: weights of the terms mass, head, joint, tail: floats, or 0-dim tensors on a device
Coefficients = Sequence[float] | Tensor


class FusedEngine:
    """On CPU forward computes the gradient too, for equal upstream gradients of all parts, which is the usual case.

    Elsewhere a look at the upstream gradients would wait for the device, so backward computes it, in a pass of its own.
    """

    def forward(
        self, inputs: LossInputs, spec: KDSpec, scale: float | Tensor, with_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        on_cpu = inputs.student.device.type == "cpu"
        grad = torch.empty_like(inputs.student, memory_format=torch.contiguous_format) if with_grad and on_cpu else None
        factor = float(scale) if on_cpu and _folds(inputs) else 1.0
        sums = sweep(inputs, spec, spec.coefficients([factor] * len(spec.parts)), grad)
        if on_cpu:
            # A few numbers: Python is quicker than a handful of torch calls.
            *terms, mass = sums.tolist()
            parts = [float(scale) * sum(w * v for w, v in zip(part.weights, terms, strict=True)) for part in spec.parts]
            return sums.new_tensor(parts, dtype=inputs.dtype), sums.new_tensor(mass, dtype=inputs.dtype), grad
        return (spec.matrix(sums) * sums[:4]).sum(1) * scale, sums[4], grad

    def backward(
        self, inputs: LossInputs, spec: KDSpec, scale: float | Tensor, upstream: Tensor, buffer: Tensor | None
    ) -> Tensor:
        if inputs.student.device.type != "cpu":
            coef: Coefficients = (upstream[:, None] * spec.matrix(upstream)).sum(0) * scale
        else:
            values = upstream.tolist()
            if buffer is not None and min(values) == max(values):
                return scale_(buffer, values[0] * (1.0 if _folds(inputs) else float(scale)))
            coef = [c * float(scale) for c in spec.coefficients(values)]
        if buffer is None:
            buffer = torch.empty_like(inputs.student, memory_format=torch.contiguous_format)
        sweep(inputs, spec, coef, buffer)
        return buffer


def _folds(inputs: LossInputs) -> bool:
    # fp16 gradients divided by a large avg_factor would underflow before the loss scale of AMP, which comes with the
    # upstream gradient, can lift them.
    return inputs.student.dtype != torch.float16


def scale_(x: Tensor, factor: float) -> Tensor:
    """``x *= factor`` in place; ``factor`` may exceed the range of a half-precision ``x``."""
    if factor != 1.0:
        if x.dtype in (torch.float32, torch.float64):
            return x.mul_(factor)
        for block in x.split(max(1, _CPU_BLOCK // max(x.shape[1], 1))):
            block.copy_(block.float().mul_(factor))
    return x


def sweep(inputs: LossInputs, spec: KDSpec, coef: Coefficients, grad: Tensor | None) -> Tensor:
    """Row-weighted sums of KL_mass, KL_head, P * KL_head, KL_tail and (last) P over all rows: ``(5,)``.

    Args:
        inputs: the inputs.
        spec: the loss; its parts are not looked at.
        coef: the weight of each term in the gradient.
        grad: ``(N, C)``, receives the gradient of the weighted sum of the terms; None to leave it out.
    """
    num_rows, num_logits = inputs.student.shape
    device = inputs.student.device
    width = num_logits + (spec.activation == "implicit_bg")
    size = _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK
    height = min(max(1, num_rows), max(64, size // width))
    memory = torch.empty(4, height, width, dtype=inputs.dtype, device=device)
    # Block sums are added up in fp64: 100 blocks of fp32 sums would lose two digits.
    sums = torch.zeros(5, dtype=torch.float64 if device.type == "cpu" else inputs.dtype, device=device)
    block_of = _sigmoid_block if spec.activation == "sigmoid" else _softmax_block
    for first in range(0, num_rows, height):
        part = slice(first, min(first + height, num_rows))
        block = _load(inputs, spec, part, memory[:, : part.stop - first])
        terms, block_grad = block_of(block, spec, coef, grad is not None)
        sums += terms.sum(0)
        if grad is not None and block_grad is not None:
            if block.masked is not None:
                block_grad[:, :num_logits].masked_fill_(block.masked, 0.0)
            grad[part].copy_(block_grad[:, :num_logits])
    return sums


class _Block(NamedTuple):
    x: Tensor  # (2, R, W) teacher's and student's logits, finite
    e: Tensor  # (2, R, W) scratch
    head: Tensor | None  # (R, K) int64
    row_weight: Tensor  # (R, 1) weight in the loss
    mass_weight: Tensor  # (R, 1) weight in the statistic
    masked: Tensor | None  # (R, C) bool, classes that the student masks, or None for none


def _load(inputs: LossInputs, spec: KDSpec, part: slice, memory: Tensor) -> _Block:
    x, e = memory[:2], memory[2:]
    t, s = x
    num_logits = inputs.student.shape[1]
    on_cpu = t.device.type == "cpu"
    for side, source in ((t, inputs.teacher[part]), (s, inputs.student[part])):
        logits = side[:, :num_logits]
        if source.dtype == side.dtype:
            torch.clamp(source, min=_MASKED, out=logits)
        else:
            logits.copy_(source).clamp_(min=_MASKED)
        if spec.activation == "implicit_bg":
            side[:, num_logits:].zero_()
    masked = None
    # Elsewhere than on CPU the look at the minimum would wait for the device.
    if not on_cpu or float(s.amin()) <= _MASKED:
        masked = inputs.student[part] < _MASKED

    if inputs.weight is None:
        weight = torch.ones((), dtype=t.dtype, device=t.device).expand(t.shape[0], 1)
    else:
        weight = inputs.weight[part].to(t.dtype)[:, None]
    head, row_weight = None, weight
    if spec.select == "target":
        assert inputs.labels is not None
        labels = inputs.labels[part][:, None]
        known = (labels >= 0) & (labels < t.shape[1])
        head, row_weight = labels.where(known, 0), weight * known
    elif spec.select != "none":
        head = _top_k(t if spec.select == "teacher" else s, spec.top_k, *e)
    return _Block(x, e, head, row_weight, weight, masked)


def _top_k(x: Tensor, k: int, scratch: Tensor, scratch2: Tensor) -> Tensor:
    """The set of the k largest of each row, ties to the lowest index; the order within the set is open."""
    width = x.shape[1]
    if x.device.type != "cpu" or k >= width:
        return topk_index(x, k)
    # torch.topk is quick where it scans for a few of many. Where it would partition a short row, k sweeps beat it.
    if 64 * (k + 1) <= width or k > _MAX_SWEEPS:
        values, index = x.topk(k + 1, dim=1)
        # It leaves open which of equal values it takes: that matters only where the k-th equals the next.
        unsure = values[:, k - 1] == values[:, k]
        index = index[:, :k]
    else:
        index, unsure = _sweep_top_k(x, k, scratch, scratch2)
    if unsure.any():
        index[unsure] = topk_index(x[unsure], k)
    return index


def _sweep_top_k(x: Tensor, k: int, scratch: Tensor, scratch2: Tensor) -> tuple[Tensor, Tensor]:
    """Top-k by k maxima, and a ``(R,)`` mask of the rows that hold a tie or a NaN, for which the answer is void."""
    # Reductions over the first axis run in full vectors.
    rest, hit = scratch.view(x.shape[::-1]).copy_(x.t()), scratch2.view(x.shape[::-1])
    width = x.shape[1]
    # Of one hit, base + column remains; no hit gives less, two give more.
    base = width
    codes = torch.arange(base, base + width, dtype=x.dtype)[:, None]
    found = torch.empty(k, x.shape[0], dtype=x.dtype)
    for i in range(k):
        # A comparison that writes floats is several times as fast as one that writes bools.
        torch.eq(rest, rest.amax(0, keepdim=True), out=hit)
        if i + 1 < k:
            rest.sub_(hit, alpha=1e30)
        torch.sum(hit.mul_(codes), 0, out=found[i])
    found.sub_(base)
    unsure = (found.amin(0) < 0) | (found.amax(0) >= width)
    return found.t().long(), unsure


class _Sides(NamedTuple):
    """Teacher's (first) and student's distributions inside a set of classes, the head or the tail.

    Both go through every step together: for few rows the number of calls is what costs.
    """

    x: Tensor  # logits / tau less their maximum, (2, R, K) or (2, R, W)
    e: Tensor  # exp(x), 0 outside the set
    top: Tensor  # the maximum / tau, (2, R, 1)
    total: Tensor  # sum of e, (2, R, 1)
    log_total: Tensor
    alive: Tensor  # (R, 1), False where the teacher masks every class of the set


def _sides(x: Tensor, e: Tensor | None, outside: Tensor | None, tau: float) -> _Sides:
    """Shift ``x`` in place and exponentiate it into ``e``, except the columns ``outside`` ``(2, R, K)`` of each row."""
    if outside is not None:
        # Much faster than scattering a number.
        x.scatter_(2, outside, x.new_full(outside.shape, _OUT))
    top = x.amax(2, keepdim=True)
    x.sub_(top)
    alive = top[0] > 0.5 * _MASKED
    if tau != 1.0:
        x.div_(tau)
        top = top / tau
    # exp() of numbers whose result underflows is ten times as slow on a CPU; a floor this low changes no digit.
    e = torch.clamp(x, min=_EXP_FLOOR[x.dtype], out=e).exp_()
    if outside is not None:
        e.scatter_(2, outside, e.new_zeros(outside.shape))
    total = e.sum(2, keepdim=True)
    return _Sides(x, e, top, total, total.log(), alive)


def _kl(sides: _Sides) -> Tensor:
    """KL inside the set, ``(R, 1)``; overwrites the teacher's ``x``. The logarithms stay shifted: no digit is lost."""
    (t, s), (t_log, s_log) = sides.x, sides.log_total
    shifted = t.sub_(s).mul_(sides.e[0]).sum(1, keepdim=True)
    return (shifted / sides.total[0] - t_log + s_log) * sides.alive


def _grad(sides: _Sides, on_kl: Tensor, on_mass: Tensor) -> Tensor:
    """``on_kl * (q - p) + on_mass * q`` with the distributions inside the set; overwrites ``e``."""
    (p, q), (p_total, q_total) = sides.e, sides.total
    p.mul_(on_kl / p_total)
    return q.mul_((on_kl + on_mass) / q_total).sub_(p)


def _softmax_block(block: _Block, spec: KDSpec, coef: Coefficients, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    weight = block.row_weight
    index = None if block.head is None else block.head.expand(2, *block.head.shape)
    head = None if index is None else _sides(block.x.gather(2, index), None, None, spec.tau)
    tail = _sides(block.x, block.e, index, spec.tau)
    kl_tail = _kl(tail)
    if head is None:
        kl_mass = kl_head = mass = gap = torch.zeros_like(kl_tail)
    else:
        kl_head = _kl(head)
        kl_mass, mass, gap = _mass_terms((head.top - tail.top) + (head.log_total - tail.log_total))
    terms = torch.cat([kl_mass, kl_head, mass * kl_head, kl_tail], 1) * weight
    terms = torch.cat([terms, mass * block.mass_weight], 1)
    if not with_grad:
        return terms, None

    by_tau = weight / spec.tau
    on_mass = by_tau * coef[0] * gap
    grad = _grad(tail, by_tau * coef[3] * tail.alive, on_mass)
    if head is not None and block.head is not None:
        on_head = by_tau * (coef[1] + coef[2] * mass) * head.alive
        grad.scatter_(1, block.head, _grad(head, on_head, -on_mass))
    return terms, grad


def _mass_terms(odds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL_mass, P and P - Q, each ``(R, 1)``, from the log-odds ``(2, R, 1)`` of the head against the tail."""
    # Seen from the rarer side of the teacher: see _sigmoid_block.
    flip = torch.copysign(torch.ones_like(odds[0]), odds[0]).neg_()
    seen = odds * flip
    (p, q), (t, s), (t_plus, s_plus) = seen.sigmoid(), seen, _softplus(seen)
    return p * (t - s) + (s_plus - t_plus), odds[0].sigmoid(), (p - q) * flip


def _sigmoid_block(block: _Block, spec: KDSpec, coef: Coefficients, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    (t, s), (t_exp, s_exp) = block.x, block.e
    if spec.gamma:
        factor = (t.sigmoid() - s.sigmoid()).abs_().pow_(spec.gamma)
    if spec.tau != 1.0:
        t.div_(spec.tau)
        s.div_(spec.tau)
    weight = block.row_weight
    p = torch.sigmoid(t, out=t_exp)
    total = p.sum(1, keepdim=True)
    mass = torch.zeros_like(total)
    if block.head is not None:
        mass = p.gather(1, block.head).sum(1, keepdim=True) / total.clamp(min=1e-12)

    # A Bernoulli KL is the same for the complements. Seen from the side where the teacher's probability is at most a
    # half, neither 1 - p nor a difference of large logits costs digits.
    flip = torch.copysign(torch.ones((), dtype=t.dtype, device=t.device), t).neg_()
    t.mul_(flip)
    s.mul_(flip)
    p = torch.sigmoid(t, out=t_exp)
    q = torch.sigmoid(s, out=s_exp)
    kl = _softplus(s).sub_(_softplus(t))
    kl.add_(t.sub_(s).mul_(p))
    if spec.gamma:
        kl.mul_(factor)
    kl_head = torch.zeros_like(total)
    if block.head is not None:
        kl_head = kl.gather(1, block.head).sum(1, keepdim=True)
        kl.scatter_(1, block.head, 0.0)
    kl_tail = kl.sum(1, keepdim=True)
    zero = torch.zeros_like(total)
    terms = torch.cat([zero, kl_head, zero, kl_tail], 1) * weight
    terms = torch.cat([terms, mass * block.mass_weight], 1)
    if not with_grad:
        return terms, None

    by_tau = weight / spec.tau
    grad = q.sub_(p).mul_(flip)
    if spec.gamma:
        grad.mul_(factor)
    head_grad = None if block.head is None else grad.gather(1, block.head) * (by_tau * coef[1])
    grad.mul_(by_tau * coef[3])
    if block.head is not None and head_grad is not None:
        grad.scatter_(1, block.head, head_grad)
    return terms, grad


def _softplus(x: Tensor) -> Tensor:
    return F.logsigmoid(-x).neg_()
