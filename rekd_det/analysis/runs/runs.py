"""What training runs logged: mmengine's ``vis_data/scalars.json``, resumed runs put together."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from rekd_det.analysis.utils.pair import AnalysisError

# mmdet's CocoMetric(classwise=True) logs '<category>_precision', behind the metric's prefix.
_CLASS_SUFFIX = "_precision"
_BOOKKEEPING = ("data_time", "time", "step", "epoch", "iter", "memory")

#: columns of the table of results, as mmdet names them behind 'bbox_' and 'segm_'
SIZES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
TASKS = ("bbox", "segm")


@dataclass
class Curve:
    """A scalar over training.

    Args:
        steps: iterations, rising. For a validation of an epoch-based run: epochs.
        values: one per step.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass
class Run:
    """One work dir.

    Args:
        name: how it is called in tables.
        folder: the work dir.
        train: scalars of training by name.
        val: scalars of validation by name, without the evaluator's prefix ('bbox_mAP').
    """

    name: str
    folder: Path
    train: dict[str, Curve]
    val: dict[str, Curve]

    def final(self, metric: str) -> float | None:
        """A metric in the last validation, or None."""
        curve = self.val.get(metric)
        return curve.values[-1] if curve else None

    def best(self, metric: str) -> float | None:
        """The largest value of a metric in any validation, or None."""
        curve = self.val.get(metric)
        return max(curve.values) if curve else None

    def per_category(self) -> dict[str, float]:
        """AP by category in the last validation; empty unless the evaluator has ``classwise=True``.

        With several metrics mmdet writes all of them under the same names, so only those of the last one ('segm'
        behind 'bbox') are what is left.
        """
        return {
            name.removesuffix(_CLASS_SUFFIX): curve.values[-1]
            for name, curve in self.val.items()
            if name.endswith(_CLASS_SUFFIX)
        }


def read_runs(folders: list[str]) -> list[Run]:
    """Read work dirs and give each the shortest unique name.

    Raises:
        AnalysisError: if one has no log.
    """
    paths = [Path(f) for f in folders]
    return [read_run(path, name) for path, name in zip(paths, _short_names(paths), strict=True)]


def read_run(folder: Path, name: str) -> Run:
    """Read a work dir, or one run's folder in it. A resumed run replaces what the one before it logged later.

    Raises:
        AnalysisError: if there is no log in it.
    """
    if not folder.is_dir():
        raise AnalysisError(f"'{folder}' is not a folder; give the work dirs of training runs")
    files = sorted({*folder.glob("*/vis_data/scalars.json"), *folder.glob("vis_data/scalars.json")})
    train: list[dict] = []
    val: list[dict] = []
    for file in files:
        new_train, new_val = _read(file)
        # A test run in the same folder logs metrics too, at step 0, which is not a validation of the training.
        if not new_train and train:
            continue
        if train and new_train[0].get("step", 0) <= train[0].get("step", 0):
            train, val = [], []  # not resumed, but started again
        train, val = _continue(train, new_train), _continue(val, new_val)
    if not train and not val:
        raise AnalysisError(
            f"'{folder}' holds no log: expected TIMESTAMP/vis_data/scalars.json in it, which LocalVisBackend writes"
        )
    return Run(name, folder, _curves(train), {k.rpartition("/")[2]: c for k, c in _curves(val).items()})


def _read(file: Path) -> tuple[list[dict], list[dict]]:
    """The lines of training and those of validation; a damaged line, which a killed run may leave, is skipped."""
    train: list[dict] = []
    val: list[dict] = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            if number < len(lines):  # the last one is half-written by every kill
                warnings.warn(f"{file}, line {number} is damaged and was skipped", stacklevel=2)
            continue
        (train if "iter" in entry or "lr" in entry else val).append(entry)
    return train, val


def _continue(before: list[dict], after: list[dict]) -> list[dict]:
    if not after:
        return before
    start = after[0].get("step", 0)
    return [e for e in before if e.get("step", 0) < start] + after


def _curves(entries: list[dict]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for entry in entries:
        for name, value in entry.items():
            if name in _BOOKKEEPING or not isinstance(value, (int, float)):
                continue
            curve = curves.setdefault(name, Curve())
            curve.steps.append(int(entry.get("step", 0)))
            curve.values.append(float(value))
    return curves


def _short_names(paths: list[Path]) -> list[str]:
    parts = [p.absolute().parts for p in paths]
    for length in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise AnalysisError("the same folder is given twice")
