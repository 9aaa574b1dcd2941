"""Signals that stop a study."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP act as Ctrl-C does, so that the trainings end with the study."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off a stop until the end of the block. To be used in the main thread, where Python handles signals.

    The signals are noted, not masked: a masked one would reach another thread, and be handled here all the same.
    """
    noted: list[int] = []
    with _handled(lambda number, frame: noted.append(number), signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield
    if noted:
        signal.raise_signal(noted[0])


@contextmanager
def _handled(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    # `nohup` has a program ignore a signal.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
