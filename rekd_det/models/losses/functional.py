"""The terms of the distillation losses: readable, differentiable by autograd, pure torch.

Shape legend: ``N`` rows, ``C`` class logits per row, ``K`` size of the top-K set, ``tau`` temperature (see
:mod:`rekd_det.structures.aligned_logits`). Logits are raw scores, never probabilities. The teacher comes first in
``KL(teacher || student)``. Everything here is *per row*, before ``tau**2``, row weights and reduction.

With ``p = softmax(teacher / tau)``, ``q = softmax(student / tau)``, ``S`` the top-K set of a row,
``P = sum_S p`` and ``Q = sum_S q``::

    KL(p || q) = KL_mass + P * KL_top + (1 - P) * KL_tail

This is an identity for every choice of S. KD, DKD, GDKD and both readings of ReKD are weightings of its three terms.

A sigmoid head is a product of Bernoullis, whose KL is the sum of ``B_c = KL(Bernoulli(sigmoid(t_c)) ||
Bernoulli(sigmoid(s_c)))`` over the categories. With ``A`` the probability that some category of the tail is present,
the chain rule gives the parallel identity::

    sum_c B_c = KL_B(A_t || A_s) + sum_S B_c + A_t * KL(tail || tail | some of it present)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: stands for -inf: exp() of it is 0 in every dtype, and 0 * MASKED is 0 where 0 * inf is NaN
MASKED = -1.0e9
#: below every logit, masked ones included: a class taken out of a tail that is masked altogether
OUT = 2 * MASKED


class TopKTerms(NamedTuple):
    """The three terms of an identity, and the teacher's mass of the top-K set; each ``(N,)``.

    ``KD = kl_mass + P * kl_top + (1 - P) * kl_tail`` for a softmax, with ``P = top_mass``; ``KD = kl_mass + kl_top +
    A_t * kl_tail`` for sigmoids.
    """

    kl_mass: Tensor
    kl_top: Tensor
    kl_tail: Tensor
    top_mass: Tensor


def topk_kl_terms(student: Tensor, teacher: Tensor, top_index: Tensor, tau: float = 1.0) -> TopKTerms:
    """Split ``KL(softmax(teacher / tau) || softmax(student / tau))`` at the top-K set.

    Args:
        student: ``(N, C)`` logits. fp16 and bf16 are computed in fp32.
        teacher: ``(N, C)`` logits.
        top_index: the set S of each row: ``(N, K)`` int64 indices without repetition, or ``(N, C)`` bool mask.
        tau: temperature, > 0.

    Returns:
        :class:`TopKTerms`: ``kl_mass``, ``kl_top``, ``kl_tail`` and ``top_mass``, each ``(N,)``, fp32 (fp64 for fp64
        input). An empty tail (K = C) or an empty set gives 0 for its term.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check_pair(student, teacher)
    in_top = _as_mask(top_index, student.shape)
    t, s = scaled(teacher, tau), scaled(student, tau)
    # Everything comes from the masked log-sum-exps, so that log(1 - P) never is the logarithm of a difference.
    t_top, s_top = (_masked_logsumexp(x, in_top) for x in (t, s))
    t_tail, s_tail = (_masked_logsumexp(x, ~in_top) for x in (t, s))
    t_all, s_all = torch.logaddexp(t_top, t_tail), torch.logaddexp(s_top, s_tail)

    log_p, log_1p = t_top - t_all, t_tail - t_all
    log_q, log_1q = s_top - s_all, s_tail - s_all
    top_mass = log_p.exp()
    kl_mass = top_mass * (log_p - log_q) + log_1p.exp() * (log_1p - log_1q)
    kl_top = _kl_within(t, s, t_top, s_top, in_top)
    kl_tail = _kl_within(t, s, t_tail, s_tail, ~in_top)
    return TopKTerms(kl_mass, kl_top, kl_tail, top_mass)


def sigmoid_terms(student: Tensor, teacher: Tensor, top_index: Tensor, tau: float = 1.0) -> TopKTerms:
    """Split the sum over categories of ``KL(Bernoulli(teacher) || Bernoulli(student))`` at the top-K set.

    Args:
        student: ``(N, C)`` logits. fp16 and bf16 are computed in fp32.
        teacher: ``(N, C)`` logits.
        top_index: the set S of each row, as in :func:`topk_kl_terms`.
        tau: temperature, > 0.

    Returns:
        :class:`TopKTerms`: ``kl_mass = KL_B(A_t || A_s)``; ``kl_top``, the sum of ``B_c`` over S; ``kl_tail``, the KL
        of the tail given that some category of it is present; ``top_mass``, the share of S in the sum of the teacher's
        probabilities. Without a tail (K = C, or a teacher that masks all of it) ``kl_tail`` is 0.
    """
    _check_pair(student, teacher)
    in_top = _as_mask(top_index, student.shape)
    t, s = (scaled(x, tau) for x in (teacher, student))
    log_odds_t, given_t = some_present(t, ~in_top)
    log_odds_s, _ = some_present(s, ~in_top)
    # The tail, given that some of it is present, is an exponential family in its logits: its mean is `given`, its log
    # partition function is the log-odds of A. So no small A is divided by, and no difference of small numbers is taken.
    kl_tail = (given_t * (t - s)).sum(1) - log_odds_t + log_odds_s
    alive = t.masked_fill(in_top, MASKED).amax(1) > 0.5 * MASKED
    per_class = kl_bernoulli(student, teacher, tau)
    return TopKTerms(
        kl_mass=kl_bernoulli(log_odds_s[:, None], log_odds_t[:, None]).squeeze(1),
        kl_top=per_class.masked_fill(~in_top, 0.0).sum(1),
        kl_tail=kl_tail.masked_fill(~alive, 0.0),
        top_mass=sigmoid_top_mass(t, in_top),
    )


def sigmoid_top_mass(teacher: Tensor, in_top: Tensor) -> Tensor:
    """The share of the top-K set in the sum of the teacher's probabilities: ``(N,)``.

    Args:
        teacher: ``(N, C)`` logits, divided by the temperature already.
        in_top: ``(N, C)`` bool, the set.
    """
    p = teacher.sigmoid()
    return p.masked_fill(~in_top, 0.0).sum(1) / p.sum(1).clamp(min=1e-12)


#: below these log-probabilities a tail's categories exclude each other, to the last bit
RARE = {torch.float32: -25.0, torch.float64: -45.0}


def some_present(logits: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds ``(N,)`` of "some category of the tail is present", and each one's probability given that ``(N, C)``.

    Args:
        logits: ``(N, C)``, fp32 or fp64, divided by the temperature already.
        tail: ``(N, C)`` bool.

    Where the largest logit is below ``RARE``, the odds are proportional to ``exp(logit)``: all logits are then shifted
    up to it, and the log-odds back, so that nothing underflows.
    """
    logits = logits.masked_fill(~tail, OUT)
    shift = (RARE[logits.dtype] - logits.detach().amax(1, keepdim=True)).clamp(min=0.0)
    shifted = logits + shift
    none = F.logsigmoid(-shifted).sum(1, keepdim=True)  # log(1 - A)
    some = -none.expm1()
    given = (shifted.sigmoid() / some).masked_fill(~tail, 0.0)
    return (some.log() - none - shift).squeeze(1), given


def top_set(logits: Tensor, k: int, share: float | None = None, tau: float = 1.0, sigmoid: bool = False) -> Tensor:
    """The top-K set of each row: ``(N, C)`` bool.

    Args:
        logits: ``(N, C)``; a category at ``-inf`` is chosen last.
        k: 1 <= k <= C, how many categories; with ``share`` at most that many, and one less than C.
        share: take the smallest set that holds this share of the row's mass: of its softmax, or of the sum of its
            sigmoids. None takes k.
        tau: temperature of the mass.
        sigmoid: whether the mass is a sum of sigmoids.
    """
    index = topk_index(logits, k if share is None else adaptive_k(k, logits.shape[1]))
    keep = None if share is None else keep_share(logits, index, share, tau, sigmoid)
    mask = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    return mask.scatter_(1, index, True if keep is None else keep)


def adaptive_k(k: int, num_logits: int) -> int:
    """How many categories a set that holds a share may have: k, but leave a tail where there is more than one."""
    return min(k, max(1, num_logits - 1))


def keep_share(logits: Tensor, index: Tensor, share: float, tau: float, sigmoid: bool) -> Tensor:
    """Which of the largest logits ``index`` ``(N, K)``, by falling size, it takes to hold a share: ``(N, K)`` bool."""
    x = scaled(logits.detach(), tau)
    p = x.sigmoid() if sigmoid else x.softmax(1)
    largest = p.gather(1, index)
    # A category is needed where those before it do not hold the share yet; the first always is. Not with cumsum, which
    # has no deterministic kernel on a GPU.
    before = [torch.zeros_like(largest[:, 0])]
    for column in largest.unbind(1)[:-1]:
        before.append(before[-1] + column)
    keep = torch.stack(before, 1) < share * p.sum(1, keepdim=True)
    keep[:, 0] = True  # also in a row whose probabilities all underflow
    return keep


def topk_index(logits: Tensor, k: int) -> Tensor:
    """Indices of the k largest logits of each row; a tie goes to the lowest class index.

    Args:
        logits: ``(N, C)``.
        k: 1 <= k <= C.

    Returns:
        ``(N, k)`` int64, by falling logit.
    """
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"top_k must be in 1..{logits.shape[1]} (the number of logits), got {k}")
    logits = logits.detach()
    if logits.dtype == torch.float64:
        return logits.sort(dim=1, descending=True, stable=True).indices[:, :k]
    # torch.topk is far cheaper than a sort, but leaves open which of equal numbers it takes. No two of these are equal:
    # an integer with the order of the logits, and below it the place in the row.
    bits = (logits.float() + 0.0).view(torch.int32)  # + 0.0 makes a 0 of -0
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    place = torch.arange(logits.shape[1] - 1, -1, -1, device=logits.device)
    return ((order.long() << 32) | place).topk(k, dim=1).indices


def kl_softmax(student: Tensor, teacher: Tensor, tau: float = 1.0) -> Tensor:
    """Classical knowledge distillation: ``KL(softmax(teacher/tau) || softmax(student/tau))``, ``(N,)``."""
    _check_pair(student, teacher)
    log_p, log_q = (F.log_softmax(scaled(x, tau), dim=1) for x in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum(1)


def kl_bernoulli(student: Tensor, teacher: Tensor, tau: float = 1.0, gamma: float = 0.0) -> Tensor:
    """Classical distillation of a sigmoid head, class by class: ``(N, C)``.

    Entry (n, c) is ``KL(Bernoulli(sigmoid(teacher/tau)) || Bernoulli(sigmoid(student/tau)))``, times
    ``|sigmoid(teacher) - sigmoid(student)| ** gamma`` where gamma > 0, taken as a constant: no gradient flows through.
    """
    _check_pair(student, teacher)
    s, t = scaled(student, tau), scaled(teacher, tau)
    # log sigma(t) - log sigma(s), and the same for the complement, from log-sigmoids: never log(1 - x).
    positive = F.logsigmoid(t) - F.logsigmoid(s)
    negative = F.logsigmoid(-t) - F.logsigmoid(-s)
    p = t.sigmoid()
    loss = p * positive + (-t).sigmoid() * negative
    if gamma > 0:
        with torch.no_grad():
            factor = ((t * tau).sigmoid() - (s * tau).sigmoid()).abs() ** gamma
        loss = loss * factor
    return loss


def standardized(logits: Tensor) -> Tensor:
    """Z-scores of each row's logits ``(N, C)``, in fp32 or better: mean 0 and (unbiased) standard deviation 1.

    Logit standardization (Sun et al., CVPR 2024). Masked classes (-inf) stay so and are left out of the mean.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    there = ~(logits < MASKED)  # a NaN is no masked class: it must reach the loss
    count = there.sum(1, keepdim=True)
    x = logits.masked_fill(~there, 0.0)
    x = (x - x.sum(1, keepdim=True) / count.clamp(min=1)).masked_fill(~there, 0.0)
    variance = x.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return (x / (variance + 1e-14).sqrt()).masked_fill(~there, float("-inf"))


def append_background(logits: Tensor) -> Tensor:
    """``(N, C)`` foreground logits to ``(N, C + 1)`` with a background logit of 0 (the 'implicit_bg' reading)."""
    return F.pad(logits, (0, 1))


def _check_pair(student: Tensor, teacher: Tensor) -> None:
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ValueError(
            "student and teacher logits must both be (N, C) with the same N and C, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def _as_mask(top_index: Tensor, shape: torch.Size) -> Tensor:
    if top_index.dim() != 2 or top_index.shape[0] != shape[0]:
        raise ValueError(
            f"top_index must be (N, K) indices or an (N, C) bool mask for logits {tuple(shape)}, "
            f"got {tuple(top_index.shape)}"
        )
    if top_index.dtype == torch.bool:
        if top_index.shape != shape:
            raise ValueError(f"a bool top_index must be (N, C) = {tuple(shape)}, got {tuple(top_index.shape)}")
        return top_index
    mask = torch.zeros(shape, dtype=torch.bool, device=top_index.device)
    return mask.scatter_(1, top_index, True)


def scaled(logits: Tensor, tau: float) -> Tensor:
    """``logits / tau`` in fp32 (or fp64), where a masked class (-inf) is finite and has no gradient."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (logits / tau).masked_fill(logits < MASKED, MASKED)


def _masked_logsumexp(x: Tensor, mask: Tensor) -> Tensor:
    """``logsumexp`` over the classes in the mask, ``(N,)``; about ``MASKED`` where the mask is empty."""
    return torch.logsumexp(x.masked_fill(~mask, MASKED), dim=1)


def _kl_within(t: Tensor, s: Tensor, t_mass: Tensor, s_mass: Tensor, mask: Tensor) -> Tensor:
    """KL between the distributions renormalised inside the mask, ``(N,)``; 0 where the teacher has nothing in it."""
    log_p = (t - t_mass[:, None]).masked_fill(~mask, MASKED)
    log_q = (s - s_mass[:, None]).masked_fill(~mask, MASKED)
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    return kl.masked_fill(t_mass < 0.5 * MASKED, 0.0)
