"""Run a function in forked processes: one per argument, each with a limit on memory and time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, TimeoutError, as_completed
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool


class Ended(RuntimeError):
    """The process ended without a result: killed, out of memory or out of time."""


def run_isolated(
    function: Callable[[Any], Any], arguments: Sequence[Any], jobs: int, seconds: float, gigabytes: float
) -> Iterator[tuple[Any, Any, float]]:
    """Call ``function(argument)`` for each argument in a process of its own, ``jobs`` at a time.

    Args:
        function: its result must pickle.
        arguments: one call each.
        jobs: processes at once.
        seconds: after which a process is killed.
        gigabytes: address space that a process may have beyond this one's.

    Yields:
        ``(argument, result, seconds)`` as they finish; the result is the exception where there was one.
    """
    fork = multiprocessing.get_context(
        "fork"
    )  # everything is imported already, and nothing has to pickle on its way in
    start = (function, arguments, gigabytes)
    with ProcessPool(jobs, max_tasks=1, context=fork, initializer=_confine, initargs=start) as pool:
        calls: dict[Future, Any] = {
            pool.schedule(_call, (i,), timeout=seconds): argument for i, argument in enumerate(arguments)
        }
        try:
            for call in as_completed(calls):
                try:
                    result, taken = call.result()
                except TimeoutError:
                    result, taken = Ended(f"took more than {seconds:g} s"), seconds
                except ProcessExpired as error:
                    result, taken = Ended(f"its process ended with code {error.exitcode}"), 0.0
                yield calls[call], result, taken
        finally:
            pool.stop()


#: in a forked process: what to call, and with what
_WORK: tuple[Callable[[Any], Any], Sequence[Any]]


def _confine(function: Callable[[Any], Any], arguments: Sequence[Any], gigabytes: float) -> None:
    global _WORK
    _WORK = function, arguments
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(os.devnull, "w") as nowhere:  # what detectors print would interrupt the progress bar
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)


def _call(index: int) -> tuple[Any, float]:
    function, arguments = _WORK
    start = time.monotonic()
    try:
        result = function(arguments[index])
    except Exception as error:  # handed to the caller, as a value
        result = error
    try:
        pickle.loads(pickle.dumps(result))
    except Exception:  # an exception that does not pickle
        result = RuntimeError(f"{type(result).__name__}: {result}")
    return result, time.monotonic() - start
