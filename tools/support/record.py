"""The results for each config of the zoo: stored as JSON, shown as tables, compared with earlier results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rekd_det.models.adapters.table import support_table

PASS, FAIL, REFUSED, NOT_RUN = "pass", "fail", "refused", "not run"


@dataclass(frozen=True)
class Record:
    """The verdict on one config.

    Args:
        config: its path in the zoo.
        family: its folder there.
        head: class of the head that classifies; '' if it was never built.
        adapter: class of the adapter; '' if there is none.
        activation: how logits become probabilities.
        rows: number of rows in the step of the check.
        verdict: 'pass', 'fail', 'refused' (no adapter) or 'not run' (MMDetection can't train it here).
        reason: why not 'pass', or what to know of a pass.
    """

    config: str
    family: str
    head: str = ""
    adapter: str = ""
    activation: str = ""
    rows: int = 0
    verdict: str = PASS
    reason: str = ""


def read_records(file: Path) -> dict[str, Record]:
    """Records by config; none if there is no file.

    Raises:
        ValueError: if the file is not a list of records.
    """
    if not file.exists():
        return {}
    try:
        return {r["config"]: Record(**r) for r in json.loads(file.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is not what tools/check_support.py wrote ({error}); restore or remove it") from error


def write_records(file: Path, records: Mapping[str, Record]) -> None:
    """Write records sorted by config, one a line."""
    lines = (json.dumps(asdict(records[k])) for k in sorted(records))
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def regressions(before: Mapping[str, Record], now: Iterable[Record]) -> list[Record]:
    """Those that fail or are refused now, and passed before or were never looked at before.

    A config that can't be run is none of them: it says something of the machine (a package, an operator without a CPU
    form), not of the adapters.
    """
    worse = {FAIL: (PASS, None), REFUSED: (PASS,)}
    return [r for r in now if (before[r.config].verdict if r.config in before else None) in worse.get(r.verdict, ())]


def fill_page(page: str, records: Mapping[str, Record]) -> str:
    """Replace the tables of docs/support.md, which stand between ``<!-- name -->`` and ``<!-- end name -->``.

    Raises:
        ValueError: if a pair of marks is missing.
    """
    shown = sorted(records.values(), key=lambda r: r.config)
    for name, table in (("heads", _heads(shown)), ("configs", _configs(shown)), ("summary", _summary(shown))):
        start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        if page.count(start) != 1 or page.count(end) != 1:
            raise ValueError(f"docs/support.md needs the marks {start.strip()} and {end} once each")
        before, rest = page.split(start)
        page = before + start + table + end + rest.split(end)[1]
    return page


def _heads(records: Iterable[Record]) -> str:
    # One adapter serves softmax and sigmoid heads, so the activations are those the detectors had.
    seen: dict[str, set[str]] = {}
    for r in records:
        if r.verdict == PASS:
            seen.setdefault(r.head, set()).add(r.activation)
    lines = (
        (h.head, h.adapter, ", ".join(sorted(seen.get(h.head, {h.activation}), reverse=True)), h.rows)
        for h in support_table("mmdet")
    )
    return _table(("head", "adapter", "activation", "rows"), lines)


def _configs(records: Iterable[Record]) -> str:
    columns = ("family", "config", "head", "adapter", "activation", "rows", "verdict", "reason")
    names = ((r, r.config.partition("/")[2].removesuffix(".py")) for r in records)
    return _table(
        columns,
        ((r.family, name, r.head, r.adapter, r.activation, r.rows or "", r.verdict, r.reason) for r, name in names),
    )


def _summary(records: list[Record]) -> str:
    counts = [(v, sum(r.verdict == v for r in records)) for v in (PASS, FAIL, REFUSED, NOT_RUN)]
    families = len({r.family for r in records})
    return f"{len(records)} configs of {families} families: " + ", ".join(f"{n} {v}" for v, n in counts) + ".\n"


def _table(columns: Iterable[str], lines: Iterable[Iterable]) -> str:
    columns = list(columns)
    out = [columns, ["---"] * len(columns), *([str(x).replace("|", "/") for x in line] for line in lines)]
    return "".join("| " + " | ".join(line) + " |\n" for line in out)
