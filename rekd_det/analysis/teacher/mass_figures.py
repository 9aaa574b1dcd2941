"""Figures of the mass of top-K set and tail."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rekd_det.analysis.teacher.mass import MassStats
from rekd_det.analysis.utils.figures import COLOURS, new_figure

_EASY, _HARD, _OTHER = COLOURS[0], COLOURS[1], COLOURS[2]


def mass_figure(groups: dict[str, MassStats], top_k: int) -> Figure:
    """P by K, the median and the middle 80% of rows; one panel per kind of row, easy against hard."""
    kinds = list(dict.fromkeys(name.partition(",")[0] for name in groups))
    figure, axes = new_figure(4.8 * len(kinds), 3.8, len(kinds), sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        for name, stats in groups.items():
            if name.partition(",")[0] != kind or not _is_leaf(name, groups):
                continue
            low, high = stats.quantile(0.1), stats.quantile(0.9)
            axis.fill_between(_ks(stats), low, high, color=_colour(name), alpha=0.18, linewidth=0)
            _curve(axis, name, stats, stats.quantile(0.5))
        axis.set(title=f"rows: {kind}", xlabel="K", ylim=(0, 1.02))
        _mark(axis, top_k)
        axis.legend(loc="lower right")
    axes[0].set_ylabel("mass P of the top-K set\n(median and middle 80% of rows)")
    return figure


def tail_figure(groups: dict[str, MassStats], top_k: int) -> Figure:
    """Mean 1 - P by K, and how 1 - P is distributed at one K; both on logarithmic axes."""
    figure, (left, right) = new_figure(9.6, 4.0, 2)
    smallest = 1.0
    for name, stats in groups.items():
        if not _is_leaf(name, groups):
            continue
        color, dashes = _colour(name), "--" if name.startswith("background") else "-"
        tail = np.maximum(stats.mean_tail, 1e-12)
        smallest = min(smallest, float(tail.min()))
        _curve(left, name, stats, tail, linestyle=dashes)
        value, share = stats.cdf(min(top_k, stats.max_k))
        right.plot(1 - value, 1 - share, color=color, linestyle=dashes)
    left.set(title="mean over rows", xlabel="K", ylabel="tail's share 1 - P", yscale="log")
    left.set_ylim(max(smallest / 2, 1e-9), 1.2)
    left.legend(loc="lower left")
    _mark(left, top_k)
    right.set(
        title=f"distribution at K = {top_k}",
        xlabel="x",
        ylabel="share of rows with 1 - P below x",
        xscale="log",
        xlim=(1e-6, 1.0),
        ylim=(0, 1.02),
    )
    return figure


def label_figure(groups: dict[str, MassStats], top_k: int) -> Figure | None:
    """How often the label itself is in the top-K set, by K; None without labelled rows."""
    shown = {n: s for n, s in groups.items() if s.labelled}
    if not shown:
        return None
    figure, (axis,) = new_figure(5.2, 3.8)
    for name, stats in shown.items():
        _curve(axis, name, stats, stats.label_share)
    axis.set(xlabel="K", ylabel="share of rows whose label is in the top-K set", ylim=(0, 1.03))
    _mark(axis, top_k)
    axis.legend(loc="lower right")
    return figure


def _is_leaf(name: str, groups: dict[str, MassStats]) -> bool:
    """Whether a group is not divided into others."""
    return not any(other.startswith(f"{name},") for other in groups)


def _colour(name: str) -> str:
    return _EASY if name.endswith("easy") else _HARD if name.endswith("hard") else _OTHER


def _ks(stats: MassStats) -> np.ndarray:
    return np.arange(1, stats.max_k + 1)


def _curve(axis: Axes, name: str, stats: MassStats, values: np.ndarray, linestyle: str = "-") -> None:
    """A group's value by K."""
    label = f"{name} ({stats.rows:,} rows)"
    axis.plot(_ks(stats), values, linestyle, color=_colour(name), marker="o", markersize=3, label=label)


def _mark(axis: Axes, top_k: int) -> None:
    axis.axvline(top_k, color="#888888", linewidth=1, linestyle=":")
    axis.annotate(
        f"K = {top_k}",
        (top_k, 0.5),
        xycoords=("data", "axes fraction"),
        xytext=(3, 0),
        textcoords="offset points",
        fontsize="small",
        color="#555555",
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
