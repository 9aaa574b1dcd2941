"""Trainings of the tiny pair in processes of their own, some of which are killed; for test_resume.py."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, loops

# A server that has imported everything once, and has no threads: a run starts in a moment.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["rekd_det", "mmdet.datasets", "mmdet.evaluation", "resume_runs"])


def run(config: Path, work_dir: Path, options: dict, kill: str | None = None, resume: bool = False) -> None:
    """Train in a process of its own.

    Args:
        config: the pair's config file.
        work_dir: for checkpoints and logs.
        options: overrides of the config.
        kill: where the process ends with SIGKILL: 'iter N' after the Nth iteration of this process, 'write N' when it
            has written half of its Nth checkpoint, 'rename N' when that is written but has no name yet, 'named N' when
            it has its name but `last_checkpoint` does not say so, 'val' in the first validation. None: ends well.
        resume: go on from the newest checkpoint.
    """
    process = _CONTEXT.Process(target=_train, args=(str(config), str(work_dir), options, kill, resume))
    process.start()
    process.join(300)
    expected = 0 if kill is None else -signal.SIGKILL
    assert process.exitcode == expected, f"exit code {process.exitcode} instead of {expected}"


def _train(config: str, work_dir: str, options: dict, kill: str | None, resume: bool) -> None:
    torch.set_num_threads(1)
    os.makedirs(work_dir, exist_ok=True)
    with open(os.path.join(work_dir, "output.txt"), "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({"work_dir": work_dir, "resume": resume, **options})
    if kill:
        _arm(kill)
    loops.time.sleep = lambda seconds: None  # mmengine sleeps 2 s after each round of the data
    runner = RUNNERS.build(cfg)
    runner.register_hook(_Seen(work_dir, int(kill[5:]) if kill and kill.startswith("iter") else None))
    if kill == "val":
        runner.register_hook(_KillInValidation())
    runner.train()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(kill: str) -> None:
    """Wrap what writes checkpoints, so that the Nth time the process dies in it."""
    kind, _, number = kill.partition(" ")
    left = [int(number or 0)]

    def last() -> bool:
        left[0] -= 1
        return left[0] == 0

    if kind == "write":
        put = LocalBackend.put

        def put_half(self, obj, path):
            if last():
                put(self, obj[: len(obj) // 2], path)
                _die()
            put(self, obj, path)

        LocalBackend.put = put_half
    elif kind in ("rename", "named"):
        replace = os.replace

        def replace_or_die(source, target):
            if str(target).endswith(".pth") and last():
                if kind == "named":
                    replace(source, target)
                _die()
            replace(source, target)

        os.replace = replace_or_die


class _Seen(Hook):
    """Writes each iteration's losses down exactly, and may kill the process."""

    priority = "LOWEST"

    def __init__(self, work_dir: str, kill_at: int | None) -> None:
        self.work_dir, self.left = work_dir, kill_at

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        losses = {k: float(v) for k, v in sorted(outputs.items())}
        with open(os.path.join(self.work_dir, "losses.txt"), "a") as file:
            file.write(f"{runner.iter} {losses!r}\n")
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                _die()


class _KillInValidation(Hook):
    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        _die()
