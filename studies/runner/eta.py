"""How long a study will still take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def remaining_seconds(
    waiting: Sequence[str], running: Sequence[tuple[str, float]], known: Mapping[str, Sequence[float]], places: int
) -> float | None:
    """Estimate from the runs of the same kind that are finished; kinds of which none is take the mean of all.

    Args:
        waiting: kinds of the runs that have not started.
        running: kind and seconds so far of those that have.
        known: seconds that finished runs took, by kind.
        places: how many runs go on at once.

    Returns:
        Seconds, or None as long as no run has finished.
    """
    everything = [seconds for of_kind in known.values() for seconds in of_kind]
    if not everything:
        return None

    def expected(kind: str) -> float:
        values = known.get(kind) or everything
        return sum(values) / len(values)

    left = [max(expected(kind) - so_far, 0.0) for kind, so_far in running]
    total = sum(left) + sum(expected(kind) for kind in waiting)
    return max([total / places, *left])


def clock(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
