"""What each arm of a study gave, and by how much it differs from another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.runner.metrics import METRICS
from studies.runner.spec import Study
from studies.runner.statistics import Difference, paired_difference


@dataclass(frozen=True)
class Comparison:
    """One arm and one metric.

    Attributes:
        values: by seed, of the finished runs.
        difference: to the baseline; None for the baseline itself, and where there is no seed to compare.
    """

    arm: str
    metric: str
    values: dict[int, float]
    difference: Difference | None


def compare_arms(study: Study, results: Sequence[Mapping[str, Any]], baseline: str | None = None) -> list[Comparison]:
    """Compare every arm, in the study's order, in every metric that any run has.

    Args:
        study: what was to be done.
        results: what :func:`studies.runner.results.collect` gave.
        baseline: the arm that differences are taken to; the study's, if None.
    """
    baseline = baseline or study.baseline
    by_arm: dict[str, dict[int, Mapping[str, float]]] = {arm.name: {} for arm in study.arms}
    for line in results:
        if line["status"] == "ok" and line["arm"] in by_arm:
            by_arm[line["arm"]][line["seed"]] = line["metrics"]
    known = [m for m in METRICS if any(m in found for seeds in by_arm.values() for found in seeds.values())]
    compared = []
    for metric in known or METRICS[:1]:
        base = _values(by_arm[baseline], metric)
        for arm, seeds in by_arm.items():
            values = _values(seeds, metric)
            difference = None if arm == baseline else paired_difference(values, base)
            compared.append(Comparison(arm, metric, values, difference))
    return compared


def _values(seeds: Mapping[int, Mapping[str, float]], metric: str) -> dict[int, float]:
    # COCO's evaluation says -1 where no object has that size.
    return {seed: found[metric] for seed, found in sorted(seeds.items()) if found.get(metric, -1.0) >= 0}
