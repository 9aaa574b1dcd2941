"""Periodic and best checkpoints of which one is whole at every moment."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from rekd_det.utils.atomic import replace_text


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which removes old checkpoints only once the new one is there.

    The original removes them first: killed in between, a run with ``max_keep_ckpts=1`` has lost everything. Options are
    those of the original. :class:`rekd_det.engine.runner.rekd_runner.ReKDRunner` puts it in the original's place.
    """

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removals_later():
            super()._save_checkpoint_with_step(runner, step, meta)
        if is_main_process():
            # The original has rewritten this file in place, where a kill could have left it empty.
            replace_text(osp.join(runner.work_dir, "last_checkpoint"), str(self.last_ckpt))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removals_later():
            super()._save_best_checkpoint(runner, metrics)

    file_backend: Any  # mmengine assigns it in a method that mypy does not look into

    @contextmanager
    def _removals_later(self) -> Iterator[None]:
        backend = self.file_backend
        if isinstance(backend, _RemovesLater):  # saving the best saves the periodic one as well
            yield
            return
        later = self.file_backend = _RemovesLater(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        kept = {self.last_ckpt, getattr(self, "best_ckpt_path", None)}
        kept.update(getattr(self, "best_ckpt_path_dict", {}).values())
        for remove, path in later.removals:
            if path not in kept:  # a resumed run may write what it is about to remove
                remove(path)


class _RemovesLater:
    """A file backend that only notes what to remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.removals: list[tuple[Any, str]] = []

    def remove(self, path: str) -> None:
        self.removals.append((self._backend.remove, path))

    def rmtree(self, path: str) -> None:
        self.removals.append((self._backend.rmtree, path))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
