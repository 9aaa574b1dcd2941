"""Runs a study file and writes its results; the work of ``tools/study.py``."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rekd_det.utils.checkpoint import is_local
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair
from studies.runner.annotations import check_same_data
from studies.runner.committed import RESULTS, Committed
from studies.runner.data import check_data_of, write_data
from studies.runner.digest import digest_of
from studies.runner.eta import Durations, clock, remaining_seconds
from studies.runner.launcher import Launcher
from studies.runner.metrics import MAIN
from studies.runner.plan import make_plan
from studies.runner.processes import SILENCE_S, Processes, hold
from studies.runner.report import write_report
from studies.runner.results import collect, write_results
from studies.runner.run import Run, with_needs
from studies.runner.schedule import Budget, run_all
from studies.runner.signals import terminable
from studies.runner.slots import make_slots
from studies.runner.spec import Study
from studies.runner.stamp import read_stamp
from studies.runner.trainer import Trainer


def run_study(
    study: Study,
    root: Path,
    tools: Path,
    jobs: int | None = None,
    only: Collection[str] = (),
    silence_s: float = SILENCE_S,
    budget_s: float | None = None,
    launcher: Launcher | None = None,
) -> int:
    """Run the rest of a study, and write its results and its report to ``root / study.name``.

    Args:
        study: what to do.
        root: shared by studies: data, teachers and equal runs are made once in it.
        tools: folder of ``train.py`` and ``test.py``.
        jobs: runs at once, see :func:`studies.runner.slots.make_slots`.
        only: names of arms; the others are left for another time. None given: all.
        silence_s: a training or a test that says nothing for as many seconds is killed and has failed.
        budget_s: seconds after which it ends by itself; only runs that fit start. None: no limit.
        launcher: how one training is started; with another than 'none', one run follows the other.

    Returns:
        How many runs failed.

    Raises:
        InputError: something about the study can't be used; nothing was trained then.
    """
    deadline = None if budget_s is None else time.monotonic() + budget_s
    several = launcher is not None and launcher.name != "none"
    slots: list[dict[str, str]] = [{}] if several else make_slots(jobs)
    chosen = choose_arms(study, only)
    plan = make_plan(study)
    committed = Committed(study.results)
    with hold(root) as lock:
        processes = Processes(lock, silence_s)
        trainer = Trainer(root, tools, processes, launcher)
        check_same_data(with_needs(plan), trainer.runs)
        wanted = with_needs(run for run in plan if run.arm in chosen)
        left = _left(wanted, trainer, committed)
        done = {run.digest for run in wanted} - {run.digest for run in left}
        for data in {digest_of(run.data): run.data for run in left if run.data is not None}.values():
            write_data(root, data)
        check_data_of(left, root)
        _check_own_teachers(left)
        trainer.write_first_weights(left)
        folder = root / study.name
        folder.mkdir(exist_ok=True)
        progress = _Progress(plan, trainer, committed, folder, left, len(slots))
        print(f"{len(wanted)} runs, {len(done)} of them finished before; {len(slots)} at once", flush=True)
        budget = None if deadline is None else Budget(deadline, progress.needed_seconds)
        with terminable():
            run_all(left, done, slots, trainer, progress.started, progress.ended, processes.stop, budget)
    report_study(study, root, plan)
    if progress.missing:
        why = "the budget is spent" if deadline and time.monotonic() > deadline else "nothing more fits into the budget"
        print(f"{_now()} {why}; {progress.missing} runs are missing: call it again", flush=True)
    return progress.failed


def report_study(study: Study, root: Path, plan: list[Run] | None = None) -> Path:
    """Write the results and the report from the existing results, here and committed; nothing is run.

    Returns:
        The path of the report.
    """
    folder = root / study.name
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan or make_plan(study)
    check_same_data(with_needs(plan), root / "runs")
    results = collect(plan, root / "runs", Committed(study.results))
    write_results(results, folder / RESULTS)
    return write_report(study, results, folder)


def choose_arms(study: Study, only: Collection[str]) -> set[str]:
    """Names of the arms to run: those of ``only``, or all if it names none.

    Raises:
        InputError: the study has no arm of such a name.
    """
    names = [arm.name for arm in study.arms]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise InputError(f"--only: no arm is called '{unknown[0]}'; there are {', '.join(names)}")
    return set(only) or set(names)


def _left(wanted: Sequence[Run], trainer: Trainer, committed: Committed) -> list[Run]:
    """What must be trained: runs without a result, and what they build on where no checkpoint of it is here."""
    left: dict[str, Run] = {}

    def want(run: Run) -> None:
        for need in (run.backbone, run.teacher):
            if need is not None and not trainer.can_serve(need):
                want(need)
        left.setdefault(run.digest, run)

    for run in wanted:
        if not trainer.is_finished(run) and committed.of(run) is None:
            want(run)
    return list(left.values())


def _check_own_teachers(runs: Sequence[Run]) -> None:
    """Raise InputError if a pair that the study has no teacher for names a checkpoint that is not there."""
    for run in runs:
        path = run.config.model.get("teacher_ckpt") if run.teacher is None and is_pair(run.config.model) else None
        if isinstance(path, str) and is_local(path) and not Path(path).is_file():
            raise InputError(
                f"arm '{run.arm}': model.teacher_ckpt: '{path}' does not exist. Put it there, or let the study train "
                "the teacher: name its config under `teacher`, or under `teachers` and in the arm"
            )


@dataclass
class _Progress:
    """Prints what starts and ends, keeps the results up to date, and estimates the remaining time."""

    plan: list[Run]
    trainer: Trainer
    committed: Committed
    folder: Path
    left: list[Run]
    places: int
    failed: int = 0
    since: dict[str, float] = field(default_factory=dict)
    ended_runs: set[str] = field(default_factory=set)
    durations: Durations = field(default_factory=Durations)

    def __post_init__(self) -> None:
        for run in with_needs(self.plan):
            stamp = read_stamp(self.trainer.runs / run.folder, run.digest)
            line = stamp.result if stamp.starts == 1 else None if stamp.result else self.committed.of(run)
            if line is not None and line.get("starts", 1) == 1 and self.trainer.is_like_here(line):
                self.durations.add(run, line["wall_s"])

    @property
    def missing(self) -> int:
        """Runs that have not ended."""
        return len(self.left) - len(self.ended_runs)

    def needed_seconds(self, run: Run) -> float | None:
        """What a run takes; None of one that goes on in its middle, and as long as none of its kind is finished."""
        begun = read_stamp(self.trainer.runs / run.folder, run.digest).starts > 0
        return None if begun else self.durations.of_kind(run)

    def started(self, run: Run) -> None:
        self.trainer.prepare(run)
        self.since[run.digest] = time.monotonic()
        print(f"{_now()} start   {run.arm}, seed {run.seed}  ({run.folder})", flush=True)

    def ended(self, run: Run, failure: str | None) -> None:
        self.since.pop(run.digest, None)
        self.ended_runs.add(run.digest)
        self.failed += failure is not None
        results = collect(self.plan, self.trainer.runs, self.committed)
        write_results(results, self.folder / RESULTS)
        if failure is None:
            stamp = read_stamp(self.trainer.runs / run.folder, run.digest)
            result = stamp.result or {"metrics": {}}
            if stamp.starts == 1:
                self.durations.add(run, result["wall_s"])
            shown = "  ".join(f"{k} {v:.3f}" for k, v in result["metrics"].items() if k in MAIN)
        else:
            lines = failure.splitlines()
            shown = f"FAILED: {next((line for line in reversed(lines) if line.startswith('error: ')), lines[-1])}"
        print(f"{_now()} end     {run.arm}, seed {run.seed}  {shown}", flush=True)
        print(f"{_now()} {self._state()}", flush=True)

    def _state(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        seconds = self._seconds_left()
        left = "unknown until a run has finished" if seconds is None else clock(seconds)
        return f"{len(self.ended_runs)} of {len(self.left)} done{failed}; time left: {left}"

    def _seconds_left(self) -> float | None:
        now = time.monotonic()
        waiting, running = [], []
        for run in self.left:
            seconds = self.durations.expected(run)
            if seconds is None:
                return None
            if run.digest in self.since:
                running.append((seconds, now - self.since[run.digest]))
            elif run.digest not in self.ended_runs:
                waiting.append(seconds)
        return remaining_seconds(waiting, running, self.places)


def _now() -> str:
    return time.strftime("%H:%M:%S")
