"""What other people's configs bring along, for test_resume_cli.py; named in their `custom_imports`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

from mmdet.registry import DATASETS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import IterableDataset


@HOOKS.register_module()
class DieInValidation(Hook):
    """SIGKILL in a validation of an iteration or epoch at least ``at``."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if max(runner.iter, runner.epoch) >= self.at:
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class SavesOnRankZero(Hook):
    """A third party's hook that saves a checkpoint of its own, in the main process alone."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if is_main_process():
            runner.save_checkpoint(runner.work_dir, "mine.pth")


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
