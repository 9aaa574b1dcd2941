"""The results of a study: one line of JSON for each run, whatever became of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rekd_det.utils.atomic import replace_text
from studies.runner.committed import Committed
from studies.runner.run import Run, with_needs
from studies.runner.stamp import read_stamp


def collect(plan: list[Run], runs: Path, committed: Committed) -> list[dict[str, Any]]:
    """The state of every run of a plan: from the stamps in the folders under ``runs``, or else as it was committed."""
    lines = []
    for run in with_needs(plan):
        stamp = read_stamp(runs / run.folder, run.digest)
        earlier = committed.of(run) if stamp.result is None and stamp.error is None else None
        if earlier is not None:
            lines.append(earlier)
            continue
        line = {"arm": run.arm, "seed": run.seed, "status": stamp.status, "starts": stamp.starts}
        if stamp.error is not None:
            line["error"] = stamp.error
        lines.append({**line, **(stamp.result or {}), "digest": run.digest, "folder": run.folder})
    return lines


def write_results(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Write them as JSON lines; a kill leaves the old file or the new one."""
    replace_text(path, "".join(json.dumps(line) + "\n" for line in lines))
