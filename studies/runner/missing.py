"""The unfinished runs of a study, as a section of its report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rekd_det.analysis.utils.tables import markdown


def missing_section(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the runs that are not finished; nothing if all are.

    Args:
        results: what :func:`studies.runner.results.collect` gave.
    """
    left: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for line in results:
        if line["status"] != "ok":
            left[line["arm"]].append(line)
        elif line["starts"] == 1:
            for key in (line["arm"], _kind(line)):
                seconds[key].append(line["wall_s"])
    if not left:
        return []
    rows = []
    for arm, lines in left.items():
        known = seconds.get(arm) or seconds.get(_kind(lines[0]))
        minutes = f"{sum(known) / len(known) / 60:.0f}" if known else "-"
        states = ", ".join(f"{line['seed']} ({line['status']})" for line in lines)
        rows.append([arm, states, minutes])
    return ["## Missing", "", *markdown(["run", "seeds", "minutes each, so far"], rows), ""]


def _kind(line: Mapping[str, Any]) -> str:
    return line.get("folder", "").rpartition("-seed")[0]
