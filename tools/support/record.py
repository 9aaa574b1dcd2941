"""The results for each config of the zoo: stored as JSON, shown as tables, compared with earlier results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rekd_det.models.adapters.base import ADAPTERS

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
        forks: the verdict with the maintained forks of MMDetection and mmcv; '' if it was never checked with them.
    """

    config: str
    family: str
    head: str = ""
    adapter: str = ""
    activation: str = ""
    rows: int = 0
    verdict: str = PASS
    reason: str = ""
    forks: str = ""


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


def regressions(before: Mapping[str, Record], now: Iterable[Record], forks: bool = False) -> list[Record]:
    """Those that fail or are refused now, and passed before or were never looked at before.

    A config that can't be run is none of them: it says something of the machine (a package, an operator without a CPU
    form), not of the adapters.

    Args:
        before: the records so far, by config.
        now: new ones.
        forks: whether the new ones are the forks' verdicts. Until a config has one, the other stack's is expected.
    """
    worse = {FAIL: (PASS, None), REFUSED: (PASS,)}
    expected = {config: (forks and r.forks) or r.verdict for config, r in before.items()}
    return [r for r in now if expected.get(r.config) in worse.get(r.verdict, ())]


def merge(before: Mapping[str, Record], now: Iterable[Record], forks: bool = False) -> dict[str, Record]:
    """The records by config, with the new ones in. What can't be run here is not known to have changed.

    With ``forks``, only the column of that name changes, and configs that the other stack's zoo lacks are left out.
    """
    merged = dict(before)
    for r in now:
        old = before.get(r.config)
        if forks:
            if old and (r.verdict != NOT_RUN or not old.forks):
                merged[r.config] = replace(old, forks=r.verdict)
        elif old is None or r.verdict != NOT_RUN:
            merged[r.config] = replace(r, forks=old.forks if old else "")
    return merged


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
    served = sorted(
        (head.__name__, adapter.row_description, adapter)
        for head, adapter in ADAPTERS.items()
        if head.__module__.startswith("mmdet")
    )
    lines = (
        (head, adapter.__name__, ", ".join(sorted(seen.get(head, {adapter.activation}), reverse=True)), rows)
        for head, rows, adapter in served
    )
    return _table(("head", "adapter", "activation", "rows"), lines)


def _configs(records: Iterable[Record]) -> str:
    columns = ("family", "config", "head", "adapter", "activation", "rows", "verdict", "forks", "reason")
    names = ((r, r.config.partition("/")[2].removesuffix(".py")) for r in records)
    return _table(
        columns,
        (
            (r.family, name, r.head, r.adapter, r.activation, r.rows or "", r.verdict, r.forks, r.reason)
            for r, name in names
        ),
    )


def _summary(records: list[Record]) -> str:
    families = len({r.family for r in records})
    text = f"{len(records)} configs of {families} families: {_counts(r.verdict for r in records)}.\n"
    forks = [r.forks for r in records if r.forks]
    return text + (f"With the forks, {len(forks)} of them were checked: {_counts(forks)}.\n" if forks else "")


def _counts(verdicts: Iterable[str]) -> str:
    counted = Counter(verdicts)
    return ", ".join(f"{counted[v]} {v}" for v in (PASS, FAIL, REFUSED, NOT_RUN))


def _table(columns: Iterable[str], lines: Iterable[Iterable]) -> str:
    columns = list(columns)
    out = [columns, ["---"] * len(columns), *([str(x).replace("|", "/") for x in line] for line in lines)]
    return "".join("| " + " | ".join(line) + " |\n" for line in out)
