"""Estimates of how long a run and a study will take."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from rekd_det.utils.errors import InputError
from studies.runner.run import Run

_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


class Durations:
    """Estimates a run's time from the time per epoch or iteration of finished runs of its kind."""

    def __init__(self) -> None:
        self._rates: dict[str, list[float]] = defaultdict(list)
        self._seconds: list[float] = []

    def add(self, run: Run, seconds: float) -> None:
        """Add a run that finished without interruption."""
        self._rates[run.kind].append(seconds / run.length)
        self._seconds.append(seconds)

    def of_kind(self, run: Run) -> float | None:
        """Seconds, or None as long as no run of its kind is finished."""
        rates = self._rates.get(run.kind)
        return sum(rates) / len(rates) * run.length if rates else None

    def expected(self, run: Run) -> float | None:
        """The same, but a run of an unknown kind takes the mean of all runs; None as long as there is none."""
        known = self.of_kind(run)
        if known is None and self._seconds:
            return sum(self._seconds) / len(self._seconds)
        return known


def remaining_seconds(waiting: Sequence[float], running: Sequence[tuple[float, float]], places: int) -> float:
    """How long a study will still take.

    Args:
        waiting: expected seconds of the runs that have not started.
        running: expected seconds and seconds so far of those that have.
        places: how many runs are active at once.
    """
    left = [max(expected - so_far, 0.0) for expected, so_far in running]
    return max([(sum(left) + sum(waiting)) / places, *left])


def clock(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def budget_seconds(text: str) -> float:
    """Seconds in '90m', '2h', '1h30m' or '45s'.

    Raises:
        InputError: it has another form.
    """
    found = _BUDGET.fullmatch(text)
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise InputError(f"--budget must be a time such as 90m, 2h or 1h30m, got '{text}'")
    return total
