"""What a logit-distillation loss is: weights on the terms of the top-K identity. Every engine computes it from this.

Shape legend: ``N`` rows, ``C`` logits per row, ``K`` size of the top-K set, ``J`` named parts of a loss.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: order of the weights in :class:`Part` and of the sums that an engine returns
TERMS = ("mass", "top", "p_top", "tail")


class Part(NamedTuple):
    """A named component of a loss: ``mass * KL_mass + (top + p_top * P) * KL_top + tail * KL_tail`` per row.

    For ``activation='sigmoid'`` ``KL_mass`` is that of "some category of the tail is present", ``KL_top`` the sum of
    the Bernoulli KLs over the top-K set, and ``KL_tail`` the KL of the tail given that some of it is present; ``p_top``
    must be 0.
    """

    name: str
    mass: float = 0.0
    top: float = 0.0
    p_top: float = 0.0
    tail: float = 0.0

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """In the order of :data:`TERMS`."""
        return self.mass, self.top, self.p_top, self.tail


@dataclass(frozen=True)
class KDSpec:
    """One member of the family of logit-distillation losses, before row weights and reduction.

    Args:
        parts: the J components.
        select: how the top-K set of a row is found: 'teacher' or 'student' (top-K of their logits), 'target' (the
            label; K = 1), or 'none' (no set: the tail is the whole row, which makes KL_tail classical KD).
        top_k: K; 0 for 'none'; at most that many with ``share``.
        activation: 'softmax', 'sigmoid' or 'implicit_bg'.
        tau: temperature.
        gamma: exponent of the modulating factor (sigmoid with ``tail_sum`` only).
        statistic: name of the mean of P, the mass of the top-K set, in the log, or None to leave it out.
        share: the top-K set is the smallest that holds this share of the mass of the row, see
            :func:`rekd_det.models.losses.functional.top_set`. None takes ``top_k`` categories in every row.
        tail_sum: for sigmoids: ``KL_tail`` is the sum of the Bernoulli KLs over the tail, and ``KL_mass`` is 0.
        background: index of a logit that is never in the top-K set, or None.
    """

    parts: tuple[Part, ...]
    select: str
    top_k: int
    activation: str = "softmax"
    tau: float = 1.0
    gamma: float = 0.0
    statistic: str | None = "head_mass"
    share: float | None = None
    tail_sum: bool = False
    background: int | None = None

    def coefficients(self, upstream: Sequence[float]) -> list[float]:
        """The weight of each of :data:`TERMS` in ``sum_j upstream[j] * part_j``."""
        weights = [part.weights for part in self.parts]
        return [sum(u * w[i] for u, w in zip(upstream, weights, strict=True)) for i in range(len(TERMS))]

    def matrix(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(J, 4)`` weights of the parts, kept on the device: copying them there at each step would wait for it."""
        return _matrix(self, device, dtype)


@functools.cache
def _matrix(spec: KDSpec, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # the first call may come from a validation, the next one from a training
        return torch.tensor([part.weights for part in spec.parts], dtype=dtype, device=device)
