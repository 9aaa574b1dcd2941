"""Results of earlier sittings: a run whose line was committed needs no training, also where its folder is gone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studies.runner.annotations import same_annotations
from studies.runner.run import Run

RESULTS = "results.jsonl"
#: what a line must hold to count
_NEEDED: dict[str, Any] = {
    "digest": str,
    "status": str,
    "metrics": dict,
    "wall_s": (int, float),
    "starts": int,
    "hardware": dict,
    "versions": dict,
    "device": str,
}


class Committed:
    """The finished runs in ``FOLDER/*/results.jsonl``, of whichever study, by their digest.

    A broken line costs that line: it is skipped with a warning.

    Args:
        folder: one folder for each study; None, or one that does not exist, holds nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.lines: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(folder.glob(f"*/{RESULTS}")) if folder else []:
            for line in _read(path):
                if line["status"] == "ok":
                    self.lines.setdefault(line["digest"], []).append(line)

    def of(self, run: Run) -> dict[str, Any] | None:
        """The line of a run as this study writes it; None where there is none, or other annotations lie here."""
        for line in self.lines.get(run.digest, ()):
            if same_annotations(run, line.get("annotations")):
                return {**line, "arm": run.arm, "seed": run.seed, "folder": run.folder}
        return None


def _read(path: Path) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("it is not an object")
            if line.get("status") == "ok":
                for key, kind in _NEEDED.items():
                    if not isinstance(line.get(key), kind):
                        raise ValueError(f"'{key}' is missing or of the wrong type")
                if not all(isinstance(value, (int, float)) for value in line["metrics"].values()):
                    raise ValueError("a metric is no number")
                yield line
        except ValueError as error:
            warnings.warn(f"'{path}', line {number}: skipped, for it can't be used ({error})", stacklevel=2)
