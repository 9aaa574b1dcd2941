"""Periodic and best checkpoints, of which one is complete at every moment."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from rekd_det.utils.atomic import remove_partials, replace_text
from rekd_det.utils.checkpoint import is_local
from rekd_det.utils.errors import CheckpointError, InputError, closest_or_all
from rekd_det.utils.shadow import shadowed


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which removes old checkpoints only once the new one is there.

    The original removes them first: killed in between, a run with ``max_keep_ckpts=1`` has lost everything. Options are
    those of the original. :class:`rekd_det.engine.runner.rekd_runner.ReKDRunner` puts it in the original's place.
    """

    # mmengine assigns these in methods that mypy does not look into.
    file_backend: Any
    best_ckpt_path: Any

    def before_train(self, runner: Runner) -> None:
        """Find the best checkpoint in the run's present folder, and remove what a killed process has left."""
        info = runner.message_hub.runtime_info
        if "keep_ckpt_ids" in info:  # a resumed checkpoint's; the original makes paths of them, and removes these
            kept = info["keep_ckpt_ids"]
            info["keep_ckpt_ids"] = [i for i in kept if type(i) is int and i >= 0] if isinstance(kept, list) else []
        super().before_train(runner)
        if getattr(self, "best_ckpt_path", None) is not None:
            self.best_ckpt_path = self._moved(str(self.best_ckpt_path))
        best = getattr(self, "best_ckpt_path_dict", {})
        best.update({key: self._moved(path) for key, path in best.items() if path is not None})
        out_dir = str(self.out_dir)
        if is_main_process() and is_local(out_dir) and not (self.backend_args or self.file_client_args):
            for folder in {out_dir, osp.dirname(osp.join(out_dir, self.filename_tmpl)), runner.work_dir}:
                for path in remove_partials(folder):
                    runner.logger.info(f"Removed {path}, which a killed process had left unfinished.")

    def _moved(self, path: str) -> str | None:
        # A checkpoint holds absolute paths. In a copied run they lead to the original, which must not be touched.
        path = self.file_backend.join_path(self.out_dir, osp.basename(path))
        return path if self.file_backend.isfile(path) else None

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        _gather_states(runner)
        try:
            with self._removals_later():
                super()._save_checkpoint_with_step(runner, step, meta)
            if is_main_process():
                # The original has rewritten this file in place, where a kill could have left it empty.
                replace_text(osp.join(runner.work_dir, "last_checkpoint"), str(self.last_ckpt))
        except OSError as error:
            raise CheckpointError(
                f"the file '{osp.join(runner.work_dir, 'last_checkpoint')}' can't be written "
                f"({error.strerror or error}); the checkpoints are unchanged. Free some space there, and continue "
                "with --resume"
            ) from error

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        _gather_states(runner)
        for name in getattr(self, "key_indicators", None) or ():
            if metrics and name != "auto" and name not in metrics:
                raise InputError(
                    f"default_hooks.checkpoint.save_best: the validation gave no metric '{name}'"
                    f"{closest_or_all(name, metrics)}. Correct it, and continue with --resume"
                )
        with self._removals_later():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removals_later(self) -> Iterator[None]:
        backend = self.file_backend
        if isinstance(backend, _RemovesLater):  # saving the best saves the periodic one as well
            yield
            return
        later = _RemovesLater(backend)
        with shadowed(self, "file_backend", later):
            yield
        kept = {self.last_ckpt, getattr(self, "best_ckpt_path", None)}
        kept.update(getattr(self, "best_ckpt_path_dict", {}).values())
        for remove, path in later.removals:
            if path not in kept:  # a resumed run may write what it is about to remove
                try:
                    remove(path)
                except FileNotFoundError:  # somebody else has removed it meanwhile
                    pass
                except OSError as error:
                    reason = error.strerror or error
                    print_log(f"The old checkpoint {path} can't be removed: {reason}", "current", logging.WARNING)


def _gather_states(runner: Runner) -> None:
    """Let a ReKDRunner collect what only all processes together can tell."""
    gather = getattr(runner, "gather_states", None)
    if gather is not None:
        gather()


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
