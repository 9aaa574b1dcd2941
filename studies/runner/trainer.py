"""Train and test one run with the package's own tools."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rekd_det.analysis.runs.runs import Curve, read_run
from rekd_det.analysis.utils.pair import quiet
from rekd_det.engine.runner.latest_checkpoint import find_latest_checkpoint
from rekd_det.utils.errors import InputError
from studies.runner.annotations import annotations_of
from studies.runner.arm_errors import naming
from studies.runner.builds import build_of
from studies.runner.data import data_folder
from studies.runner.first_weights import write_first_weights, write_with_backbone
from studies.runner.launcher import Launcher
from studies.runner.machine import ELSEWHERE, hardware, hardware_of_job, versions
from studies.runner.metrics import read_metrics
from studies.runner.processes import Processes, RunFailed, Stopped
from studies.runner.run import Run
from studies.runner.settle import settle
from studies.runner.signals import uninterrupted
from studies.runner.stamp import read_stamp

CONFIG = "config.py"
OUTPUT = "output.txt"
TEST = "test"


class Trainer:
    """Performs runs, each in its own folder.

    Args:
        root: holds the folders of the runs and the first weights.
        tools: folder of ``train.py`` and ``test.py``.
        processes: what starts them.
        launcher: how one training is started; None: as one process.
    """

    def __init__(self, root: Path, tools: Path, processes: Processes, launcher: Launcher | None) -> None:
        self.root, self.runs, self.weights = root, root / "runs", root / "first_weights"
        self.tools, self.processes, self.launcher = tools, processes, launcher or Launcher()

    def is_finished(self, run: Run) -> bool:
        """Whether a run's folder has its result."""
        return read_stamp(self.runs / run.folder, run.digest).result is not None

    def can_serve(self, run: Run) -> bool:
        """Whether a finished run still has its checkpoint, for others to build on."""
        return self.is_finished(run) and find_latest_checkpoint(str(self.runs / run.folder)) is not None

    def is_like_here(self, line: Mapping[str, Any]) -> bool:
        """Whether a result's training took about as long as it would here: the same machine, GPUs and processes."""
        machine = line["hardware"]
        same = machine.get("cpu") == ELSEWHERE if self.launcher.name == "slurm" else machine == hardware()
        return same and line.get("processes", 1) == self.launcher.processes

    def write_first_weights(self, runs: Sequence[Run]) -> None:
        """Write what the runs start from. It builds each student, so that one that can't be built shows at once."""
        self.weights.mkdir(parents=True, exist_ok=True)
        quiet()
        for run in runs:
            with naming(run.arm):
                write_first_weights(run, self.weights)

    def prepare(self, run: Run) -> None:
        """Write a run's config into its folder, when what it needs is ready.

        Raises:
            RunFailed: what it needs can't be used; the run's stamp says so.
        """
        folder = self.runs / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        with _failures_stamped(run, folder):
            self._write_config(run, folder)

    def _write_config(self, run: Run, folder: Path) -> None:
        first, teacher = write_first_weights(run, self.weights), None
        if run.backbone is not None:
            first = write_with_backbone(first, Path(self._checkpoint(self.runs / run.backbone.folder)))
        if run.teacher is not None:
            of = self.runs / run.teacher.folder
            teacher = of / CONFIG, Path(self._checkpoint(of))
        # Each start writes it anew: mmengine's Runner replaces it by a dump that also says where it resumed.
        data = None if run.data is None else data_folder(self.root, run.data)
        # mmengine takes whatever is raised while it formats a config, a stop as well, for an error in that config.
        with uninterrupted():
            settle(run, data, first, teacher).dump(folder / CONFIG)

    def __call__(self, run: Run, environment: Mapping[str, str]) -> None:
        """Train from the start or from where an earlier one was killed, test, and stamp the result.

        Raises:
            RunFailed: a program failed; the stamp says so.
            Stopped: the study was stopped.
        """
        folder = self.runs / run.folder
        stamp = read_stamp(folder, run.digest)
        # A finished one whose checkpoint is gone is unfinished until it is trained again.
        stamp.starts, stamp.result, stamp.error = stamp.starts + 1, None, None
        stamp.annotations = annotations_of(run)
        stamp.write(folder)
        start = time.monotonic()
        with _failures_stamped(run, folder):
            self._train(folder, environment)
            train_s = time.monotonic() - start
            metrics = self._test(run, folder, environment) if run.tested else {}
        stamp.result = {
            "metrics": metrics,
            **({"curve": curve(folder)} if run.validate else {}),
            **({"annotations": stamp.annotations} if stamp.annotations else {}),
            **self._builds(run),
            "wall_s": round(time.monotonic() - start, 1),
            "train_s": round(train_s, 1),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            # Slurm trains on other machines than the one that waits for the job.
            "hardware": hardware_of_job(folder / OUTPUT) if self.launcher.name == "slurm" else hardware(),
            "device": "gpu" if "CUDA_VISIBLE_DEVICES" in environment or self.launcher.on_gpus() else "cpu",
            "processes": self.launcher.processes,
            "versions": versions(),
        }
        stamp.write(folder)

    def _builds(self, run: Run) -> dict[str, Any]:
        """Which build of its teacher and backbone a run had, which the digest does not cover."""
        found: dict[str, Any] = {}
        for name, need in (("teacher", run.teacher), ("backbone", run.backbone)):
            if need is not None and (build := build_of(need, self.runs / need.folder)) is not None:
                found[name] = build
        return found

    def _train(self, folder: Path, environment: Mapping[str, str]) -> None:
        resume = ["--resume"] if find_latest_checkpoint(str(folder)) else []
        self._tool("train", folder, environment, (), "--work-dir", folder, *resume)

    def _test(self, run: Run, folder: Path, environment: Mapping[str, str]) -> dict[str, float]:
        target = folder / TEST
        self._tool("test", folder, environment, (self._checkpoint(folder),), "--work-dir", target)
        # mmengine writes the metrics of a test to TIMESTAMP/TIMESTAMP.json.
        written = max(target.glob("*/*.json"), default=None)
        try:
            found = json.loads(written.read_text(encoding="utf-8")) if written else {}
        except ValueError as error:
            raise RunFailed(f"the metrics in '{written}' can't be read ({error})") from error
        return read_metrics(found, run.config)

    def _tool(
        self, name: str, folder: Path, environment: Mapping[str, str], files: Sequence[str], *arguments: object
    ) -> None:
        command, own = self.launcher.command(self.tools, name, folder / CONFIG, files, list(map(str, arguments)))
        # The configs of a study import hooks from `studies`, which is not part of the installed package.
        paths = [str(self.tools.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.processes.run(command, folder / OUTPUT, {**environment, **own, "PYTHONPATH": os.pathsep.join(paths)})

    @staticmethod
    def _checkpoint(folder: Path) -> str:
        path = find_latest_checkpoint(str(folder))
        if path is None:
            raise RunFailed(f"'{folder}' holds no checkpoint, although its training has ended")
        return path


@contextlib.contextmanager
def _failures_stamped(run: Run, folder: Path) -> Iterator[None]:
    try:
        yield
    except Stopped:
        raise
    except Exception as error:  # of one arm; the others go on
        stamp = read_stamp(folder, run.digest)
        stamp.error = str(error) if isinstance(error, (RunFailed, InputError)) else f"{type(error).__name__}: {error}"
        stamp.write(folder)
        raise RunFailed(stamp.error) from error


def curve(folder: Path) -> dict[str, float]:
    """The main metric by epoch (or iteration) of the validations during a training: box AP, or top-1 accuracy."""
    try:
        found = read_run(folder, "").val
    except InputError:  # an arm without a log of its own
        return {}
    points, whole = (found["top1"], 100) if "top1" in found else (found.get("bbox_mAP", Curve()), 1)
    return {str(step): value / whole for step, value in zip(points.steps, points.values, strict=True)}
