"""From a study file to its results: what ``tools/study.py`` does."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from studies.runner.data import write_data
from studies.runner.eta import clock, remaining_seconds
from studies.runner.metrics import MAIN
from studies.runner.plan import Plan, Run, digest_of, make_plan, with_needs
from studies.runner.processes import SILENCE_S, Processes, hold
from studies.runner.report import write_report
from studies.runner.results import RESULTS, collect, write_results
from studies.runner.schedule import run_all
from studies.runner.signals import terminable
from studies.runner.slots import make_slots
from studies.runner.spec import Study, StudyError
from studies.runner.stamp import read_stamp
from studies.runner.trainer import Trainer


def run_study(
    study: Study,
    root: Path,
    tools: Path,
    jobs: int | None = None,
    only: Collection[str] = (),
    silence_s: float = SILENCE_S,
) -> int:
    """Do what is left of a study, and write its results and its report to ``root / study.name``.

    Args:
        study: what to do.
        root: shared by studies: data, teachers and equal runs are made once in it.
        tools: folder of ``train.py`` and ``test.py``.
        jobs: runs at once, see :func:`studies.runner.slots.make_slots`.
        only: names of arms; the others are left for another time. None given: all.
        silence_s: a training or a test that says nothing for as many seconds is killed and has failed.

    Returns:
        How many runs failed.

    Raises:
        InputError: something about the study can't be used; nothing was trained then.
    """
    slots = make_slots(jobs)
    chosen = _choose(study, only)
    plan = make_plan(study)
    with hold(root) as lock:
        processes = Processes(lock, silence_s)
        trainer = Trainer(root, tools, processes)
        wanted = with_needs(run for run in plan.runs if run.arm in chosen)
        done = {run.digest for run in wanted if trainer.is_finished(run)}
        left = [run for run in wanted if run.digest not in done]
        for data in {digest_of(run.data): run.data for run in left if run.data is not None}.values():
            write_data(root, data)
        trainer.write_first_weights(left)
        folder = root / study.name
        folder.mkdir(exist_ok=True)
        progress = _Progress(plan, trainer, folder, wanted, len(slots))
        print(f"{len(wanted)} runs, {len(done)} of them finished before; {len(slots)} at once", flush=True)
        with terminable():
            run_all(left, done, slots, trainer, progress.started, progress.ended, processes.stop)
    report_study(study, root, plan)
    return progress.failed


def report_study(study: Study, root: Path, plan: Plan | None = None) -> Path:
    """Write the results and the report of what is there; nothing is run.

    Returns:
        The path of the report.
    """
    folder = root / study.name
    folder.mkdir(parents=True, exist_ok=True)
    results = collect(plan or make_plan(study), root / "runs")
    write_results(results, folder / RESULTS)
    return write_report(study, results, folder)


def _choose(study: Study, only: Collection[str]) -> set[str]:
    names = [arm.name for arm in study.arms]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise StudyError(f"--only: no arm is called '{unknown[0]}'; there are {', '.join(names)}")
    return set(only) or set(names)


@dataclass
class _Progress:
    """Says what starts and ends, keeps the results up to date, and estimates the rest."""

    plan: Plan
    trainer: Trainer
    folder: Path
    wanted: list[Run]
    places: int
    failed: int = 0
    since: dict[str, float] = field(default_factory=dict)
    ended_runs: set[str] = field(default_factory=set)

    def started(self, run: Run) -> None:
        self.trainer.prepare(run)
        self.since[run.digest] = time.monotonic()
        print(f"{_now()} start   {run.arm}, seed {run.seed}  ({run.folder})", flush=True)

    def ended(self, run: Run, failure: str | None) -> None:
        self.since.pop(run.digest, None)
        self.ended_runs.add(run.digest)
        self.failed += failure is not None
        results = collect(self.plan, self.trainer.runs)
        write_results(results, self.folder / RESULTS)
        if failure is None:
            metrics = read_stamp(self.trainer.runs / run.folder, run.digest).result
            shown = "  ".join(f"{k} {v:.3f}" for k, v in (metrics or {})["metrics"].items() if k in MAIN)
        else:
            shown = f"FAILED: {failure.splitlines()[-1]}"
        print(f"{_now()} end     {run.arm}, seed {run.seed}  {shown}", flush=True)
        print(f"{_now()} {self._state()}", flush=True)

    def _state(self) -> str:
        known = defaultdict(list)
        waiting, done = [], 0
        for run in self.wanted:
            stamp = read_stamp(self.trainer.runs / run.folder, run.digest)
            if stamp.result is not None and stamp.starts == 1:
                known[run.kind].append(stamp.result["wall_s"])
            if run.digest in self.since:
                continue
            if run.digest in self.ended_runs or stamp.result is not None:
                done += 1
            else:
                waiting.append(run.kind)
        now = time.monotonic()
        running = [(run.kind, now - self.since[run.digest]) for run in self.wanted if run.digest in self.since]
        seconds = remaining_seconds(waiting, running, known, self.places)
        left = "unknown until a run has finished" if seconds is None else clock(seconds)
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{done} of {len(self.wanted)} done{failed}; time left: {left}"


def _now() -> str:
    return time.strftime("%H:%M:%S")
