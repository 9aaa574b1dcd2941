"""What the configs of the tests of resuming bring along, by `custom_imports`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from filelock import FileLock, Timeout
from mmdet.registry import DATASETS
from mmengine.dist import is_main_process
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, loops
from torch import nn
from torch.utils.data import IterableDataset

from rekd_det.engine.utils import model_of
from rekd_det.models.utils.finite_guard import FiniteGuard

loops.time = SimpleNamespace(sleep=lambda seconds: None)  # mmengine sleeps 2 s after each round of the data


@HOOKS.register_module()
class Watched(Hook):
    """Writes each iteration's losses down exactly, and kills the process where the variable KILL says.

    That is 'iter N' after the Nth iteration of this process, 'write N' when it has written half of its Nth checkpoint,
    'rename N' when that is written but has no name yet, 'named N' when it has its name but `last_checkpoint` does not
    say so, 'val N' in the first validation in or after iteration or epoch N.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.kind, _, number = os.environ.get("KILL", "").partition(" ")
        self.left = int(number or 0)

    def _count(self) -> bool:
        self.left -= 1
        return self.left == 0

    def before_run(self, runner: Runner) -> None:
        if self.kind == "write":
            put = LocalBackend.put

            def put_half(backend, obj, path):
                if self._count():
                    put(backend, obj[: len(obj) // 2], path)
                    _die()
                put(backend, obj, path)

            LocalBackend.put = put_half
        elif self.kind in ("rename", "named"):
            replace = os.replace

            def replace_or_die(source, target):
                if str(target).endswith(".pth") and self._count():
                    if self.kind == "named":
                        replace(source, target)
                    _die()
                replace(source, target)

            os.replace = replace_or_die

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        losses = {k: v.item() for k, v in sorted(outputs.items())}
        with open(os.path.join(runner.work_dir, "losses.txt"), "a") as file:
            file.write(f"{runner.iter} {losses!r}\n")
        if self.kind == "iter" and self._count():
            _die()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.kind == "val" and max(runner.iter, runner.epoch) >= self.left:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class SavesOnRankZero(Hook):
    """A third party's hook that saves a checkpoint of its own, in the main process alone."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if is_main_process():
            runner.save_checkpoint(runner.work_dir, "mine.pth")


@HOOKS.register_module()
class TriesTheLock(Hook):
    """Fails if another process could train in this folder now."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        try:
            FileLock(os.path.join(runner.work_dir, ".training.lock")).acquire(timeout=0)
        except Timeout:
            return
        raise AssertionError("the folder is not locked")


@HOOKS.register_module()
class Precision(Hook):
    """Writes down in which precision a layer of the student and one of the teacher compute."""

    def before_train(self, runner: Runner) -> None:
        for role in ("student", "teacher"):
            model = getattr(model_of(runner), role)
            layer = next(m for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
            layer.register_forward_hook(lambda *given, role=role: self._note(runner, f"{role} {given[2].dtype}\n"))

    @staticmethod
    def _note(runner: Runner, line: str) -> None:
        with open(os.path.join(runner.work_dir, "precision.txt"), "a") as file:
            file.write(line)


@HOOKS.register_module()
class DivergesOnRankOne(Hook):
    """One process's student is NaN in the second iteration, and no count of that arrives in time, as on a GPU."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        FiniteGuard._arrived = lambda *_: None
        if runner.iter == 1 and not is_main_process():
            model_of(runner).student.roi_head.bbox_head.fc_cls.bias.data.fill_(float("nan"))


@DATASETS.register_module()
class StreamedDataset(IterableDataset):
    """A data set without indices. It knows its length, which mmengine's LoggerHook asks for."""

    def __init__(self, dataset: dict[str, Any]) -> None:
        self.inner = DATASETS.build(dataset)
        self.metainfo = self.inner.metainfo

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator:
        yield from (self.inner[index] for index in range(len(self.inner)))
