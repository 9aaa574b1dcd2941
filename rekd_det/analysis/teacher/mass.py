"""How the teacher's probability splits into top-K set and tail, for every K at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

# Histograms over log(P / (1 - P)) are fine both near P = 1 and near P = 0.
_LOW, _HIGH, _BINS = -20.0, 20.0, 800


def head_and_tail(teacher: Tensor, max_k: int, activation: str, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """The teacher's top-K mass P and tail mass 1 - P for K = 1 .. ``max_k``.

    Args:
        teacher: ``(N, C)`` logits.
        max_k: at most C - 1.
        activation: 'softmax'; or 'sigmoid', where P is the top-K set's share of the sum of all probabilities.
        tau: temperature.

    Returns:
        Two ``(N, max_k)`` tensors, float64. Each is a sum over its own categories, so neither loses precision.
    """
    logits = teacher.double() / tau
    p = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    p = p.sort(dim=1, descending=True).values
    p = p / p.sum(1, keepdim=True).clamp(min=1e-300)
    tail = p.flip(1).cumsum(1).flip(1)[:, 1 : max_k + 1]
    return p.cumsum(1)[:, :max_k], tail


@dataclass
class MassStats:
    """Top-K and tail mass of a group of rows: exact means, and histograms for everything else.

    Args:
        max_k: the largest K.
    """

    max_k: int
    rows: int = 0
    labelled: int = 0
    counts: np.ndarray = field(init=False)
    head_sum: np.ndarray = field(init=False)
    tail_sum: np.ndarray = field(init=False)
    label_in_head: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.max_k, _BINS))
        self.head_sum, self.tail_sum, self.label_in_head = (np.zeros(self.max_k) for _ in range(3))

    def add(self, head: Tensor, tail: Tensor, label_rank: Tensor | None = None) -> None:
        """Count rows.

        Args:
            head: ``(N, max_k)`` masses of the top-K sets.
            tail: ``(N, max_k)`` tail masses.
            label_rank: ``(N,)`` place of the label among the teacher's categories, 0 for the first.
        """
        self.rows += len(head)
        self.head_sum += head.sum(0).numpy()
        self.tail_sum += tail.sum(0).numpy()
        tiny = 1e-300
        logit = (head.clamp(min=tiny).log() - tail.clamp(min=tiny).log()).clamp(_LOW, _HIGH - 1e-9)
        bins = ((logit - _LOW) * (_BINS / (_HIGH - _LOW))).long()
        for k in range(self.max_k):
            self.counts[k] += torch.bincount(bins[:, k], minlength=_BINS).numpy()
        if label_rank is not None:
            self.labelled += len(label_rank)
            self.label_in_head += (label_rank[:, None] < torch.arange(1, self.max_k + 1)).sum(0).numpy()

    @property
    def mean_head(self) -> np.ndarray:
        """Mean P by K, ``(max_k,)``; NaN without rows."""
        return self.head_sum / self.rows if self.rows else np.full(self.max_k, np.nan)

    @property
    def mean_tail(self) -> np.ndarray:
        """Mean 1 - P by K, ``(max_k,)``: the mean coefficient of the tail in classical KD."""
        return self.tail_sum / self.rows if self.rows else np.full(self.max_k, np.nan)

    @property
    def label_share(self) -> np.ndarray:
        """Share of rows whose label is in the top-K set, by K; NaN without labelled rows."""
        return self.label_in_head / self.labelled if self.labelled else np.full(self.max_k, np.nan)

    def quantile(self, q: float) -> np.ndarray:
        """The q-quantile of P by K, to the histogram's resolution (0.05 in log-odds); NaN without rows."""
        if not self.rows:
            return np.full(self.max_k, np.nan)
        below = self.counts.cumsum(1) / self.rows
        index = (below < q - 1e-12).sum(1)
        return expit(_LOW + (index + 0.5) * (_HIGH - _LOW) / _BINS)

    def cdf(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of P and the share of rows at or below each, for one K."""
        edges = np.linspace(_LOW, _HIGH, _BINS + 1)[1:]
        return expit(edges), self.counts[k - 1].cumsum() / max(self.rows, 1)


def larger_tail(a: MassStats, b: MassStats, k: int) -> float:
    """The probability that a row of ``a`` has a larger 1 - P than one of ``b`` (ties half); NaN if one is empty."""
    if not a.rows or not b.rows:
        return float("nan")
    x, y = a.counts[k - 1] / a.rows, b.counts[k - 1] / b.rows
    above = y[::-1].cumsum()[::-1] - y  # the mass of b at larger P, which is a smaller tail
    return float((x * (above + 0.5 * y)).sum())
