"""What each arm gains over the baseline, seed by seed and with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from rekd_det.analysis.utils.figures import COLOURS, new_figure
from studies.runner.comparison import Comparison


def difference_figure(baseline: str, compared: Sequence[Comparison]) -> Figure:
    """Differences in points: a dot for each seed, the mean and its t interval.

    Args:
        baseline: its name; it has no line of its own.
        compared: in one metric. An arm that shares no seed with the baseline has an empty line.
    """
    shown = [one for one in compared if one.arm != baseline]
    figure, (axis,) = new_figure(7.0, 1.4 + 0.35 * len(shown))
    for position, one in enumerate(shown):
        found = one.difference
        if found is None:
            continue
        seeds = [100 * value for value in found.by_seed.values()]
        axis.scatter(seeds, [position] * len(seeds), s=14, color=COLOURS[5], zorder=2)
        half = None if found.half_width is None else 100 * found.half_width
        axis.errorbar(100 * found.mean, position, xerr=half, fmt="D", color=COLOURS[0], capsize=4, markersize=5)
    axis.set_yticks(range(len(shown)), [one.arm for one in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel(f"difference to '{baseline}', in points")
    # Of the figure, not of the axis: long names of arms leave the axis too little room for it.
    figure.suptitle("diamonds: mean over seeds with its 95 % t interval; dots: seeds", fontsize="medium")
    return figure
