"""Means over seeds, and differences between two arms with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

#: of the confidence intervals
LEVEL = 0.95


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample (n - 1), or None of fewer than two."""
    return stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline, paired by seed.

    Attributes:
        by_seed: one difference for each seed that both have.
        mean: of them.
        half_width: half the t interval; None of one seed alone.
    """

    by_seed: dict[int, float]
    mean: float
    half_width: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The mean difference and its t interval, ``mean +- t(0.975, n - 1) * s / sqrt(n)``.

    Args:
        values: an arm's metric by seed.
        baseline: the baseline's.

    Returns:
        None where they have no seed in common.
    """
    by_seed = {seed: value - baseline[seed] for seed, value in values.items() if seed in baseline}
    if not by_seed:
        return None
    differences = list(by_seed.values())
    half_width = None
    if len(differences) > 1:
        # scipy.stats.ttest_rel gives the same interval, but NaN where all seeds differ by the same amount.
        half_width = float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences))
    return Difference(by_seed, fmean(differences), half_width)
