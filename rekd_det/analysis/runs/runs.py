"""What training runs logged: mmengine's ``vis_data/scalars.json``, resumed runs put together."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rekd_det.utils.errors import InputError

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
        steps: iterations, rising. For a validation of an epoch-based run: epochs. For one of an iteration-based run:
            the iteration of the training line before it, or its own with ``log_metric_by_epoch=False``.
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
        val: scalars of validation by name, without the evaluator's prefix ('bbox_mAP'). Where two evaluators log the
            same name, both keep their prefix ('easy/bbox_mAP').
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

    def metrics(self) -> list[str]:
        """Names in `val`, without those of categories."""
        return [name for name in self.val if not name.endswith(_CLASS_SUFFIX)]


def read_runs(folders: list[str]) -> list[Run]:
    """Read work dirs and give each the shortest unique name.

    Raises:
        InputError: if one has no log.
    """
    paths = [Path(f) for f in folders]
    return [read_run(path, name) for path, name in zip(paths, _short_names(paths), strict=True)]


def read_run(folder: Path, name: str) -> Run:
    """Read a work dir, or one run's folder in it. A resumed run replaces what the one before it logged later.

    A file without training lines holds the validation that a resumed run repeated, or one apart from any training. The
    latter is at step 0 and is left out.

    Raises:
        InputError: if there is no log in it.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder; give the work dirs of training runs")
    files = sorted({*folder.glob("*/vis_data/scalars.json"), *folder.glob("vis_data/scalars.json")})
    entries: list[dict] = []
    for file in files:
        new = _read(file)
        (train, val), (new_train, new_val) = _split(entries), _split(new)
        if train and not new_train and _is_apart(new_val, train, val):
            continue
        if train and new_train and _step(new_train[0]) <= _step(train[0]):
            entries = []  # not resumed, but started again
        entries = _before(entries, new_train[:1])
        _place_validations(_split(entries)[0][-1:] + new)
        if new_val:
            entries = [e for e in entries if _is_training(e) or _step(e) < _step(new_val[0])]
        entries += new
    train, val = _split(entries)
    if not entries:
        raise InputError(
            f"'{folder}' holds no log: expected TIMESTAMP/vis_data/scalars.json in it, which LocalVisBackend writes"
        )
    return Run(name, folder, _curves(train), _curves(_without_prefix(val)))


def _read(file: Path) -> list[dict]:
    """The lines of training and of validation; a damaged line, which a killed run may leave, is skipped."""
    entries: list[dict] = []
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
        entries.append(entry)
    return entries


def _is_training(entry: dict) -> bool:
    return "iter" in entry or "lr" in entry


def _step(entry: dict) -> int:
    return int(entry.get("step", 0))


def _is_apart(new_val: list[dict], train: list[dict], val: list[dict]) -> bool:
    """Whether validations without training lines do not belong to the training before.

    ``runner.val()`` logs step 0. So does an iteration-based run; there they belong to it if its last is missing.
    """
    if any(_step(e) for e in new_val):
        return False
    return "epoch" in train[-1] or bool(val and _step(val[-1]) >= _step(train[-1]))


def _split(entries: list[dict]) -> tuple[list[dict], list[dict]]:
    """The lines of training, and those of validation."""
    return [e for e in entries if _is_training(e)], [e for e in entries if not _is_training(e)]


def _before(entries: list[dict], resumed: list[dict]) -> list[dict]:
    """Lines in front of the first one of training that a resumed run repeats, given its own first one if it has any.

    The validations behind that line go as well: they were of weights that the resumed run has not got.
    """
    again = (i for i, e in enumerate(entries) if resumed and _is_training(e) and _step(e) >= _step(resumed[0]))
    return entries[: next(again, len(entries))]


def _place_validations(entries: list[dict]) -> None:
    """Give validations of an iteration-based run the step of the training line before them.

    By default mmengine logs them at the run's epoch, which is 0 all along.
    """
    line: dict = {"epoch": 0}  # until there is one, steps stay as they are
    for entry in entries:
        if _is_training(entry):
            line = entry
        elif "epoch" not in line or not _step(entry):
            entry["step"] = max(_step(entry), _step(line))


def _without_prefix(entries: list[dict]) -> list[dict]:
    """Cut names behind the first slash ('coco/monitor/tv_precision' has one in its category), if they stay distinct."""
    cut = {name: name.partition("/")[2] or name for entry in entries for name in entry}
    ambiguous: set[str] = set()
    for entry in entries:
        counts = Counter(cut[name] for name in entry)
        ambiguous.update(name for name in entry if counts[cut[name]] > 1)
    return [{name if name in ambiguous else cut[name]: value for name, value in e.items()} for e in entries]


def _curves(entries: list[dict]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for entry in entries:
        for name, value in entry.items():
            if name in _BOOKKEEPING or not isinstance(value, (int, float)):
                continue
            curve = curves.setdefault(name, Curve())
            curve.steps.append(_step(entry))
            curve.values.append(float(value))
    return curves


def _short_names(paths: list[Path]) -> list[str]:
    parts = [p.absolute().parts for p in paths]
    for length in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("the same folder is given twice")
