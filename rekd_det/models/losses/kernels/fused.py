"""Losses and closed-form gradients in vectorised torch, block of rows by block of rows.

The naive formulation moves some twenty ``(N, C)`` tensors through main memory. Here a block of rows passes through all
steps while its temporaries are in the cache; only the gradient is written out.

Shape legend: ``N`` rows, ``C`` logits, ``K`` size of the top-K set, ``R`` rows of a block, ``W`` columns of a block
(C, or C + 1 with an implicit background). Row quantities are ``(R, 1)``. ``x`` is a logit, ``e`` its shifted
exponential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rekd_det.models.losses.functional import MASKED, OUT, RARE, adaptive_k, keep_share, topk_index
from rekd_det.models.losses.kernels.function import LossInputs, computes_early
from rekd_det.models.losses.kernels.spec import KDSpec
from rekd_det.models.losses.kernels.threads import on_threads

# 2048 rows of 80 classes: a handful of fp32 temporaries of this size share a core's L2 cache.
_CPU_BLOCK = 2048 * 80
_DEVICE_BLOCK = 1 << 22
_MAX_SWEEPS = 12
_EXP_FLOOR = {torch.float32: -60.0, torch.float64: -500.0}

#: the same where a shift has lifted the largest exponent to RARE at least
_RARE_FLOOR = {torch.float32: -80.0, torch.float64: -500.0}

#: weights of the terms mass, top, p_top, tail: floats, or 0-dim tensors on a device
Coefficients = Sequence[float] | Tensor


class FusedEngine:
    """On CPU forward computes the gradient too, for equal upstream gradients of all parts, which is the usual case.

    Elsewhere a look at the upstream gradients would wait for the device, so backward computes it, in a pass of its own.
    """

    def forward(
        self, inputs: LossInputs, spec: KDSpec, scale: float | Tensor, with_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        on_cpu = inputs.student.device.type == "cpu"
        early = with_grad and on_cpu and computes_early(inputs)
        grad = torch.empty_like(inputs.student, memory_format=torch.contiguous_format) if early else None
        factor = float(scale) if early else 1.0
        sums = sweep(inputs, spec, spec.coefficients([factor] * len(spec.parts)), grad)
        if on_cpu:
            # A few numbers: Python is quicker than a handful of torch calls.
            *terms, mass = sums.tolist()
            parts = [float(scale) * sum(w * v for w, v in zip(part.weights, terms, strict=True)) for part in spec.parts]
            return sums.new_tensor(parts, dtype=inputs.dtype), sums.new_tensor(mass, dtype=inputs.dtype), grad
        return (spec.matrix(sums.device, sums.dtype) * sums[:4]).sum(1) * scale, sums[4], grad

    def backward(
        self, inputs: LossInputs, spec: KDSpec, scale: float | Tensor, upstream: Tensor, buffer: Tensor | None
    ) -> Tensor:
        if inputs.student.device.type != "cpu":
            coef: Coefficients = (upstream[:, None] * spec.matrix(upstream.device, upstream.dtype)).sum(0) * scale
        else:
            values = upstream.tolist()
            if buffer is not None and min(values) == max(values):
                return scale_(buffer, values[0])
            coef = [c * float(scale) for c in spec.coefficients(values)]
        if buffer is None:
            buffer = torch.empty_like(inputs.student, memory_format=torch.contiguous_format)
        sweep(inputs, spec, coef, buffer)
        return buffer


def scale_(x: Tensor, factor: float) -> Tensor:
    """``x *= factor`` in place; ``factor`` may exceed the range of a half-precision ``x``."""
    if factor != 1.0:
        if x.dtype in (torch.float32, torch.float64):
            return x.mul_(factor)
        for block in x.split(max(1, _CPU_BLOCK // max(x.shape[1], 1))):
            block.copy_(block.float().mul_(factor))
    return x


def sweep(inputs: LossInputs, spec: KDSpec, coef: Coefficients, grad: Tensor | None) -> Tensor:
    """Row-weighted sums of KL_mass, KL_top, P * KL_top, KL_tail and (last) P over all rows: ``(5,)``.

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
    block_of = _softmax_block
    if spec.activation == "sigmoid":
        block_of = _bernoulli_block if spec.tail_sum else _sigmoid_block

    def run(blocks: list[slice]) -> list[Tensor]:
        memory = torch.empty(4, height, width, dtype=inputs.dtype, device=device)
        found = []
        for part in blocks:
            block = _load(inputs, spec, part, memory[:, : part.stop - part.start])
            terms, block_grad = block_of(block, spec, coef, grad is not None)
            found.append(terms.sum(0))
            if grad is not None and block_grad is not None:
                if block.masked is not None:
                    block_grad[:, :num_logits].masked_fill_(block.masked, 0.0)
                grad[part].copy_(block_grad[:, :num_logits])
        return found

    blocks = [slice(first, min(first + height, num_rows)) for first in range(0, num_rows, height)]
    found = on_threads(run, blocks) if device.type == "cpu" else run(blocks)
    # Block sums are added up in fp64: 100 blocks of fp32 sums would lose two digits.
    sums = torch.zeros(5, dtype=torch.float64 if device.type == "cpu" else inputs.dtype, device=device)
    for terms in found:
        sums += terms
    return sums


class _Block(NamedTuple):
    x: Tensor  # (2, R, W) teacher's and student's logits, finite
    e: Tensor  # (2, R, W) scratch
    top: Tensor | None  # (R, K) int64
    keep: Tensor | None  # (R, K) bool, which of them are in the row's set, or None for all
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
            torch.clamp(source, min=MASKED, out=logits)
        else:
            logits.copy_(source).clamp_(min=MASKED)
        if spec.activation == "implicit_bg":
            side[:, num_logits:].zero_()
    masked = None
    # Elsewhere than on CPU the look at the minimum would wait for the device.
    if not on_cpu or float(s.amin()) <= MASKED:
        masked = s[:, :num_logits] <= MASKED  # not of the source, because MASKED is -inf in fp16

    if inputs.weight is None:
        weight = torch.ones((), dtype=t.dtype, device=t.device).expand(t.shape[0], 1)
    else:
        weight = inputs.weight[part].to(t.dtype)[:, None]
    top, keep, row_weight = None, None, weight
    if spec.select == "target":
        assert inputs.labels is not None
        labels = inputs.labels[part][:, None]
        known = (labels >= 0) & (labels < t.shape[1])
        top, row_weight = labels.where(known, 0), weight * known
    elif spec.select != "none":
        top, keep = _top_set(t if spec.select == "teacher" else s, spec, e)
    return _Block(x, e, top, keep, row_weight, weight, masked)


def _top_set(x: Tensor, spec: KDSpec, scratch: Tensor) -> tuple[Tensor, Tensor | None]:
    """Indices ``(R, K)`` of the top-K sets, and which of them count; ``x`` is left as it was."""
    background = None
    if spec.background is not None:
        background = x[:, spec.background].clone()
        x[:, spec.background] = OUT
    keep = None
    if spec.share is None:
        top = _top_k(x, spec.top_k, *scratch)
    else:
        top = _sorted_top_k(x, adaptive_k(spec.top_k, x.shape[1]))
        keep = keep_share(x, top, spec.share, spec.tau, spec.activation == "sigmoid")
    if background is not None:
        x[:, spec.background] = background
    return top, keep


def _sorted_top_k(x: Tensor, k: int) -> Tensor:
    """As ``topk_index``, by falling logit."""
    if x.device.type != "cpu" or k >= x.shape[1]:
        return topk_index(x, k)
    values, index = x.topk(k + 1, dim=1)
    unsure = (values[:, 1:] == values[:, :-1]).any(1)
    index = index[:, :k]
    if unsure.any():
        index[unsure] = topk_index(x[unsure], k)
    return index


def _put(x: Tensor, index: Tensor, keep: Tensor | None, value: Tensor | float) -> Tensor:
    """Write a value at the indices ``(..., R, K)`` of the last axis, where ``keep`` says so; in place."""
    if not isinstance(value, Tensor):
        value = x.new_full(index.shape, value)  # much faster than scattering a number
    if keep is not None:
        value = value.where(keep, x.gather(-1, index))
    return x.scatter_(-1, index, value)


def _take(x: Tensor, index: Tensor, keep: Tensor | None, other: float) -> Tensor:
    """Values at the indices ``(..., R, K)`` of the last axis, ``other`` where ``keep`` is False."""
    taken = x.gather(-1, index)
    return taken if keep is None else taken.masked_fill_(~keep, other)


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
    """Teacher's (first) and student's distributions inside a set of classes, the top-K set or the tail.

    Both go through every step together: for few rows the number of calls is what costs.
    """

    x: Tensor  # logits / tau less their maximum, (2, R, K) or (2, R, W)
    e: Tensor  # exp(x), 0 outside the set
    top: Tensor  # the maximum / tau, (2, R, 1)
    total: Tensor  # sum of e, (2, R, 1)
    log_total: Tensor
    alive: Tensor  # (R, 1), False where the teacher masks every class of the set


def _sides(
    x: Tensor, e: Tensor | None, tau: float, outside: Tensor | None = None, keep: Tensor | None = None
) -> _Sides:
    """Shift ``x`` in place and exponentiate it into ``e``, except the columns ``outside`` ``(2, R, K)`` that count."""
    if outside is not None:
        _put(x, outside, keep, OUT)
    top = x.amax(2, keepdim=True)
    x.sub_(top)
    alive = top[0] > 0.5 * MASKED
    if tau != 1.0:
        x.div_(tau)
        top = top / tau
    # exp() of numbers whose result underflows is ten times as slow on a CPU; a floor this low changes no digit.
    e = torch.clamp(x, min=_EXP_FLOOR[x.dtype], out=e).exp_()
    if outside is not None:
        _put(e, outside, keep, 0.0)
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
    index = None if block.top is None else block.top.expand(2, *block.top.shape)
    top = None if index is None else _sides(_take(block.x, index, block.keep, OUT), None, spec.tau)
    tail = _sides(block.x, block.e, spec.tau, index, block.keep)
    kl_tail = _kl(tail)
    if top is None:
        kl_mass = kl_top = mass = gap = torch.zeros_like(kl_tail)
    else:
        kl_top = _kl(top)
        kl_mass, mass, gap = _mass_terms((top.top - tail.top) + (top.log_total - tail.log_total))
    terms = torch.cat([kl_mass, kl_top, mass * kl_top, kl_tail], 1) * weight
    terms = torch.cat([terms, mass * block.mass_weight], 1)
    if not with_grad:
        return terms, None

    by_tau = weight / spec.tau
    on_mass = by_tau * coef[0] * gap
    grad = _grad(tail, by_tau * coef[3] * tail.alive, on_mass)
    if top is not None and block.top is not None:
        on_top = by_tau * (coef[1] + coef[2] * mass) * top.alive
        _put(grad, block.top, block.keep, _grad(top, on_top, -on_mass))
    return terms, grad


def _mass_terms(odds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL_mass, P and P - Q, each ``(R, 1)``, from the log-odds ``(2, R, 1)`` of P and Q."""
    # Seen from the rarer side of the teacher: see _bernoulli_block.
    flip = torch.copysign(torch.ones_like(odds[0]), odds[0]).neg_()
    seen = odds * flip
    (t, s), (t_plus, s_plus) = seen, _softplus(seen)
    p, q = t.sigmoid(), s.sigmoid()
    return p * (t - s) + (s_plus - t_plus), odds[0].sigmoid(), (p - q) * flip


def _sigmoid_block(block: _Block, spec: KDSpec, coef: Coefficients, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    """The chain rule: the top-K set's Bernoullis, "some of the tail", and the tail given that."""
    weight, x = block.row_weight, block.x
    if spec.tau != 1.0:
        x.div_(spec.tau)
    out = OUT / min(spec.tau, 1.0)  # below masked classes, which were divided too
    kl_top = top_total = torch.zeros_like(x[0, :, :1])
    top_grad = None
    if block.top is not None:
        index = block.top.expand(2, *block.top.shape)
        t, s = _take(x, index, block.keep, out)
        top_total = t.sigmoid().sum(1, keepdim=True)
        kl, top_grad = _bernoulli(t, s)
        kl_top = kl.sum(1, keepdim=True)
        _put(x, index, block.keep, out)

    # As in the oracle: a tail whose categories are all rare is shifted up, where nothing underflows.
    top = x.amax(2, keepdim=True)
    alive = top[0] > 0.5 * MASKED / spec.tau  # x is divided by tau already, masked classes too
    shift = (RARE[x.dtype] - top).clamp_(min=0.0)
    y = torch.add(x, shift, out=block.e).clamp_(min=_RARE_FLOOR[x.dtype])
    none = F.logsigmoid(-y).sum(2, keepdim=True)
    some = none.expm1().neg_()
    log_odds = some.log() - none - shift
    for side in y:
        side.sigmoid_()  # by itself: torch rounds an odd end of a tensor otherwise, and equal sides would differ
    tail_total = y[0].sum(1, keepdim=True) * (-shift[0]).exp()
    p, q = y.div_(some)  # given that some of the tail is present
    kl_tail = x[0].sub_(x[1]).mul_(p).sum(1, keepdim=True) - log_odds[0] + log_odds[1]
    kl_mass, _, gap = _mass_terms(log_odds)
    terms = torch.cat([kl_mass, kl_top, torch.zeros_like(kl_top), kl_tail * alive], 1) * weight
    mass = top_total / (top_total + tail_total).clamp(min=1e-12)
    terms = torch.cat([terms, mass * block.mass_weight], 1)
    if not with_grad:
        return terms, None

    by_tau = weight / spec.tau
    on_tail = by_tau * coef[3] * alive
    grad = q.mul_(on_tail - by_tau * coef[0] * gap).sub_(p.mul_(on_tail))
    if block.top is not None and top_grad is not None:
        _put(grad, block.top, block.keep, top_grad.mul_(by_tau * coef[1]))
    return terms, grad


def _bernoulli_block(block: _Block, spec: KDSpec, coef: Coefficients, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    """The sums of the Bernoulli KLs over the top-K set and over the tail."""
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
    if block.top is not None:
        mass = _take(p, block.top, block.keep, 0.0).sum(1, keepdim=True) / total.clamp(min=1e-12)

    kl, grad = _bernoulli(t, s, t_exp, s_exp)
    if spec.gamma:
        kl.mul_(factor)
        grad.mul_(factor)
    kl_top = torch.zeros_like(total)
    if block.top is not None:
        kl_top = _take(kl, block.top, block.keep, 0.0).sum(1, keepdim=True)
        _put(kl, block.top, block.keep, 0.0)
    kl_tail = kl.sum(1, keepdim=True)
    zero = torch.zeros_like(total)
    terms = torch.cat([zero, kl_top, zero, kl_tail], 1) * weight
    terms = torch.cat([terms, mass * block.mass_weight], 1)
    if not with_grad:
        return terms, None

    by_tau = weight / spec.tau
    top_grad = None if block.top is None else grad.gather(1, block.top) * (by_tau * coef[1])
    grad.mul_(by_tau * coef[3])
    if block.top is not None and top_grad is not None:
        _put(grad, block.top, block.keep, top_grad)
    return terms, grad


def _bernoulli(t: Tensor, s: Tensor, t_exp: Tensor | None = None, s_exp: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """KL of Bernoullis with logits ``t`` and ``s``, entry by entry, and its derivative by ``s``; overwrites both."""
    # A Bernoulli KL is the same for the complements. Seen from the side where the teacher's probability is at most a
    # half, neither 1 - p nor a difference of large logits costs digits.
    flip = torch.copysign(torch.ones((), dtype=t.dtype, device=t.device), t).neg_()
    t.mul_(flip)
    s.mul_(flip)
    p, q = torch.sigmoid(t, out=t_exp), torch.sigmoid(s, out=s_exp)
    kl = _softplus(s).sub_(_softplus(t))
    kl.add_(t.sub_(s).mul_(p))
    return kl, q.sub_(p).mul_(flip)


def _softplus(x: Tensor) -> Tensor:
    return F.logsigmoid(-x).neg_()
