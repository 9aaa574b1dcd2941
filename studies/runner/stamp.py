"""The state in a run's folder: how often it was started, and how it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rekd_det.utils.atomic import replace_text

_NAME = "run.json"
_RESULT = {"metrics", "wall_s", "hardware", "device", "versions"}


@dataclass
class Stamp:
    """The state of one run.

    Attributes:
        digest: of the run.
        starts: how often its training was started; more than one where it was killed or failed.
        result: metrics, times, hardware and versions, once it is finished.
        error: last output of the last start, if it failed.
        annotations: what it is trained on, see :func:`studies.runner.annotations.annotations_of`.
    """

    digest: str
    starts: int = 0
    result: dict[str, Any] | None = None
    error: str | None = None
    annotations: dict[str, str] | None = None

    @property
    def status(self) -> str:
        """'ok', 'failed', 'interrupted' or 'not run'."""
        if self.result is not None:
            return "ok"
        if self.error is not None:
            return "failed"
        return "interrupted" if self.starts else "not run"

    def is_sound(self) -> bool:
        """Whether its parts have their types; what was read from a file may hold anything."""
        result = self.result
        complete = isinstance(result, dict) and result.keys() >= _RESULT and isinstance(result["metrics"], dict)
        typed = isinstance(self.error, str | None) and isinstance(self.annotations, dict | None)
        return typed and isinstance(self.starts, int) and (result is None or complete)

    def write(self, folder: Path) -> None:
        """Write it into an existing folder; a kill leaves the old one or the new one."""
        replace_text(folder / _NAME, json.dumps(asdict(self), indent=1) + "\n")


def read_stamp(folder: Path, digest: str) -> Stamp:
    """The state of a run; a new one where its folder has none, a damaged one, or one of another run."""
    try:
        stamp = Stamp(**json.loads((folder / _NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return Stamp(digest)
    return stamp if stamp.digest == digest and stamp.is_sound() else Stamp(digest)
