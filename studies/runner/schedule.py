"""Start runs when places are free and their teachers are ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from studies.runner.processes import RunFailed
from studies.runner.run import Run


@dataclass(frozen=True)
class Budget:
    """When a sitting ends.

    Attributes:
        deadline: by ``time.monotonic``.
        expected: seconds that a run takes, or None where nothing is known; such a run may start.
    """

    deadline: float
    expected: Callable[[Run], float | None]

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def fits(self, run: Run) -> bool:
        """Whether a run that starts now is expected to end in time."""
        return self.left > (self.expected(run) or 0.0)


def run_all(
    runs: Sequence[Run],
    done: set[str],
    slots: Sequence[Any],
    perform: Callable[[Run, Any], None],
    started: Callable[[Run], None],
    ended: Callable[[Run, str | None], None],
    stop: Callable[[], None],
    budget: Budget | None = None,
) -> None:
    """Perform runs in their order, each in a place of its own; each after those that it needs.

    Args:
        runs: what is to be done.
        done: digests of the runs that were finished before, or that nothing here needs.
        slots: the places; as many runs go on at once.
        perform: called in a thread with a run and its place; raises RunFailed where the run fails.
        started: called before each; raises RunFailed where the run can't start.
        ended: called after each with None or the reason of its failure; also for runs that lack what they need.
        stop: called where anything else is raised, a KeyboardInterrupt above all, and when the budget is spent; it must
            let ``perform`` return.
        budget: only runs that fit into it start; what still goes on at its end is stopped. None: no limit.
    """
    waiting, free, done = list(runs), list(slots), set(done)
    running: dict[Future[None], tuple[Run, Any]] = {}
    failed: set[str] = set()
    with ThreadPoolExecutor(len(slots)) as threads:
        try:
            while waiting or running:
                ready = [run for run in waiting if done.issuperset(need.digest for need in run.needs)]
                ready = [run for run in ready if budget is None or budget.fits(run)]
                begun = ready[: len(free)]
                for run in begun:
                    waiting.remove(run)
                    try:
                        started(run)
                    except RunFailed as error:
                        failed.add(run.digest)
                        ended(run, str(error))
                    else:
                        slot = free.pop(0)
                        running[threads.submit(perform, run, slot)] = run, slot
                if not running and begun:  # none of them could start; others may
                    continue
                if not running:  # and nothing is ready: what they need has failed, or nothing fits
                    for run in waiting:
                        if not failed.isdisjoint(need.digest for need in run.needs):
                            ended(run, _what_it_lacks(run, done))
                    return
                finished = wait(running, None if budget is None else max(budget.left, 0.0), FIRST_COMPLETED).done
                if not finished:
                    stop()
                    return
                for future in finished:
                    run, slot = running.pop(future)
                    free.append(slot)
                    try:
                        future.result()
                    except RunFailed as error:
                        failed.add(run.digest)
                        ended(run, str(error))
                    else:
                        done.add(run.digest)
                        ended(run, None)
        except BaseException:
            stop()
            raise


def _what_it_lacks(run: Run, done: set[str]) -> str:
    missing = next(need for need in run.needs if need.digest not in done)
    return f"what it needs could not be trained: {missing.arm} ({missing.folder})"
