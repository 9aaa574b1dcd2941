"""Run a function in forked processes: one per argument, each with a limit on memory and time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


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
    context = multiprocessing.get_context("fork")  # everything is imported already
    waiting = list(reversed(arguments))
    running: dict[Any, tuple[Any, Any, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                argument = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_call, args=(function, argument, theirs, gigabytes), daemon=True)
                process.start()
                theirs.close()
                running[ours] = (process, argument, time.monotonic())
            ready = wait(list(running), timeout=1.0)
            for pipe, (process, argument, start) in list(running.items()):
                taken = time.monotonic() - start
                if pipe in ready:
                    result = _receive(pipe, process)
                elif taken > seconds:
                    result = Ended(f"took more than {seconds:g} s")
                else:
                    continue
                process.kill()
                process.join()
                del running[pipe]
                yield argument, result, taken
    finally:
        for process, _, _ in running.values():
            process.kill()


def _receive(pipe: Any, process: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        process.join()
        return Ended(f"its process ended with code {process.exitcode}")


def _call(function: Callable[[Any], Any], argument: Any, pipe: Connection, gigabytes: float) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(os.devnull, "w") as nowhere:  # what detectors print would tear the progress apart
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        result = function(argument)
    except Exception as error:  # handed to the caller, as a value
        result = error
    try:
        pipe.send(result)
    except Exception:  # an exception that does not pickle
        pipe.send(RuntimeError(f"{type(result).__name__}: {result}"))
