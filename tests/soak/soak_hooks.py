"""What a soaked training tells the killer: the phase it is in, and where it went on. Named in its config."""

from __future__ import annotations

import os

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class SoakHook(Hook):
    """Writes the phase to ``phase`` and the first iteration of each start to ``starts``, both in the work dir."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        self._write(runner, "starts", f"{runner.iter}\n", "a")
        self._phase(runner, "train")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._phase(runner, "save")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._phase(runner, "train")

    def before_val(self, runner: Runner) -> None:
        self._phase(runner, "validation")

    def after_val(self, runner: Runner) -> None:
        self._phase(runner, "train")

    def _phase(self, runner: Runner, name: str) -> None:
        self._write(runner, "phase", name, "w")

    def _write(self, runner: Runner, name: str, text: str, mode: str) -> None:
        if is_main_process():
            with open(os.path.join(runner.work_dir, name), mode) as file:
                file.write(text)
