"""Runs side by side: tables and figures of ``tools/analysis/compare_runs.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TypeGuard

import numpy as np
from matplotlib.figure import Figure

from rekd_det.analysis.runs.runs import SIZES, TASKS, Curve, Run
from rekd_det.analysis.utils.figures import COLOURS, new_figure, save
from rekd_det.analysis.utils.tables import markdown, write_csv
from rekd_det.utils.log_names import is_loss

#: points of a curve beyond which its noise is smoothed away
_SMOOTH_OVER = 60
_SHOWN_CHANGES = 10

CLASSWISE_ADVICE = (
    "AP by category is not known for: {runs}. Train with `--cfg-options val_evaluator.classwise=True`, so that it is "
    "in the log. Or let `tools/test.py` write the detections (`--cfg-options "
    "test_evaluator.outfile_prefix=WORK_DIR/final`) and give `--ann-file` here."
)


@dataclass(frozen=True)
class Change:
    """A category's AP in the first run and in another."""

    category: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """Positive where the other run is better."""
        return self.after - self.before


def changes(before: dict[str, float], after: dict[str, float]) -> list[Change]:
    """Categories that both runs know, the largest gain first; those without objects (NaN) are left out."""
    common = [Change(c, before[c], after[c]) for c in before if c in after]
    return sorted((c for c in common if not np.isnan(c.difference)), key=lambda c: (-c.difference, c.category))


def metric_rows(runs: Sequence[Run]) -> list[tuple[str, list[float | None]]]:
    """The metrics that any run has, COCO's first ('bbox_mAP', ...), and their final values, one per run."""
    names = [f"{task}_{size}" for task in TASKS for size in SIZES]
    names = list(dict.fromkeys([*names, *(name for run in runs for name in run.metrics())]))
    rows = [(name, [run.final(name) for run in runs]) for name in names]
    return [(name, values) for name, values in rows if any(v is not None for v in values)]


def write_comparison(runs: Sequence[Run], categories: Sequence[dict[str, float]], folder: Path) -> Path:
    """Write ``report.md``, and its numbers (CSV) and pictures (PNG).

    Args:
        runs: the first is what the others are compared with.
        categories: AP by category of each run, empty where it is not known.
        folder: where; it must exist.

    Returns:
        The path of the report.
    """
    text = ["# Runs compared", "", f"Differences are to the first run, **{runs[0].name}**.", ""]
    text += _metric_section(runs, folder)
    figure = curve_figure(runs)
    if figure is not None:
        save(figure, folder / "curves.png")
        note = f"Curves of more than {_SMOOTH_OVER} points are running means over a thirtieth of them."
        text += ["## Curves", "", note, "", "![curves](curves.png)", ""]
    text += _category_section(runs, categories, folder)
    report = folder / "report.md"
    report.write_text("\n".join(text), encoding="utf-8")
    return report


def _metric_section(runs: Sequence[Run], folder: Path) -> list[str]:
    rows = metric_rows(runs)
    write_csv(
        folder / "metrics.csv",
        ["run", *(name for name, _ in rows), "best bbox_mAP"],
        [[r.name, *(v[i] for _, v in rows), r.best("bbox_mAP")] for i, r in enumerate(runs)],
    )
    text = ["## Metrics in the last validation", ""]
    if not any(run.val for run in runs):
        return [*text, "No run has validated yet.", ""]
    prefixes = tuple(f"{task}_" for task in TASKS)
    for prefix, title in zip((*prefixes, ""), ("boxes", "masks", "others"), strict=True):
        shown = [(n, v) for n, v in rows if n.startswith(prefix) and (prefix or not n.startswith(prefixes))]
        if shown:
            best, told = (f"{prefix}mAP", "best mAP") if prefix else (shown[0][0], f"highest {shown[0][0]}")
            header = [title, *(n.removeprefix(prefix) for n, _ in shown), told]
            table = [
                [r.name, *(_with_change(v, i) for _, v in shown), _number(r.best(best))] for i, r in enumerate(runs)
            ]
            text += [*markdown(header, table), ""]
    return [
        *text,
        "Each line is one run. It does not show how seeds differ, so a small difference may be chance.",
        "",
    ]


def _category_section(runs: Sequence[Run], categories: Sequence[dict[str, float]], folder: Path) -> list[str]:
    detect = [any(f"{task}_mAP" in run.val for task in TASKS) for run in runs]
    if not any(detect):
        return []
    text = ["## AP by category", ""]
    missing = [run.name for run, found, detects in zip(runs, categories, detect, strict=True) if detects and not found]
    if missing:
        text += [CLASSWISE_ADVICE.format(runs=", ".join(missing)), ""]
    known = list(dict.fromkeys(name for found in categories for name in found))
    if known:
        lines = [[c, *(found.get(c) for found in categories)] for c in known]
        write_csv(folder / "categories.csv", ["category", *(r.name for r in runs)], lines)
    for index, (run, found) in enumerate(zip(runs[1:], categories[1:], strict=True), start=1):
        changed = changes(categories[0], found)
        if not changed:
            continue
        picture = f"categories_{index}.png"
        save(change_figure(changed, runs[0].name, run.name), folder / picture)
        text += [f"### {run.name} against {runs[0].name}", ""]
        for title, part in (
            ("gained", [c for c in changed if c.difference > 0][:_SHOWN_CHANGES]),
            ("lost", [c for c in reversed(changed) if c.difference < 0][:_SHOWN_CHANGES]),
        ):
            shown = [[c.category, f"{c.before:.3f}", f"{c.after:.3f}", f"{c.difference:+.3f}"] for c in part]
            table = markdown([title, runs[0].name, run.name, "change"], shown) if part else [f"No category {title}."]
            text += [*table, ""]
        text += [f"![categories]({picture})", ""]
    return text


def curve_figure(runs: Sequence[Run]) -> Figure | None:
    """AP, or else the first metric, and every loss and distillation statistic over training; None where nothing was."""
    known = list(dict.fromkeys(name for run in runs for name in run.metrics()))
    val = [m for m in ("bbox_mAP", "segm_mAP") if m in known] or known[:1]
    names = list(dict.fromkeys(n for r in runs for n in r.train))
    first = [n for n in names if n in ("loss", "lr", "grad_norm")]
    distill = [n for n in names if n.startswith("distill.")]
    own = [n for n in names if is_loss(n) and n not in first + distill]
    train = first + distill + own
    if not val and not train:
        return None
    columns = 3
    rows = -(-(len(val) + len(train)) // columns)
    figure, axes = new_figure(4.2 * columns, 2.7 * rows + 0.5, columns, rows)
    for axis, name in zip(axes, val + train, strict=False):
        for run, colour in zip(runs, cycle(COLOURS), strict=False):
            curve = (run.val if name in val else run.train).get(name)
            if curve is None:
                continue
            if name in val:
                axis.plot(curve.steps, curve.values, color=colour, marker="o", markersize=3)
                continue
            axis.plot(*_smoothed(curve), color=colour)
        axis.set_title(name)
        axis.set_xlabel("validated at epoch or iteration" if name in val else "iteration")
    for axis in axes[len(val) + len(train) :]:
        axis.set_visible(False)
    handles = [axes[0].plot([], [], color=c, label=r.name)[0] for r, c in zip(runs, cycle(COLOURS), strict=False)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(runs), 4))
    return figure


def change_figure(changed: Sequence[Change], before: str, after: str) -> Figure:
    """Change of AP by category, as bars; of many categories those that changed most."""
    shown = list(changed)
    if len(shown) > 4 * _SHOWN_CHANGES:
        shown = [*shown[: 2 * _SHOWN_CHANGES], *shown[-2 * _SHOWN_CHANGES :]]
    figure, (axis,) = new_figure(6.4, 1.2 + 0.2 * len(shown))
    values = [100 * c.difference for c in shown]
    colours = [COLOURS[0] if v >= 0 else COLOURS[1] for v in values]
    axis.barh(range(len(shown)), values, color=colours)
    axis.set_yticks(range(len(shown)), [c.category for c in shown], fontsize=8)
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="change of AP, in points (1 = 0.01)", title=f"{after} against {before}")
    return figure


def _smoothed(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Running means over 1/30 of a long curve."""
    steps, values = np.array(curve.steps), np.array(curve.values)
    if len(values) <= _SMOOTH_OVER:
        return steps, values
    window = len(values) // 30
    kernel = np.full(window, 1.0 / window)
    return steps[window - 1 :], np.convolve(values, kernel, mode="valid")


def _with_change(values: Sequence[float | None], index: int) -> str:
    value, first = values[index], values[0]
    if index == 0 or not _is_known(value) or not _is_known(first):
        return _number(value)
    return f"{value:.3f} ({value - first:+.3f})"


def _number(value: float | None) -> str:
    return f"{value:.3f}" if _is_known(value) else "-"


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and value >= 0  # COCO's evaluation says -1 where no object has that size
