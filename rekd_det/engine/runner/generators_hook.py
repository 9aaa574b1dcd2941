"""The states of the random generators, and the input sizes drawn last, in checkpoints and around validation."""

from __future__ import annotations

import logging

from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from rekd_det.engine.runner.model_state import forgetful_modules, input_sizes, set_input_sizes
from rekd_det.engine.runner.randomness import generator_states, set_generator_states

_KEY = "generator_states"
_SIZES = "input_sizes"


class GeneratorsHook(Hook):
    """Carries the states of the random generators through checkpoints, and around validation."""

    priority = "LOWEST"  # so that before_train restores after all that other hooks draw

    def __init__(self) -> None:
        self._gathered: list[dict] = []
        self._gathered_at: tuple[int, int] | None = None
        self._restored: dict | None = None
        self._sizes: list = []
        self._before_val: dict | None = None

    def gather(self, runner: Runner) -> None:
        """Collect what the next checkpoint holds, one entry per process. Every process must call it."""
        self._gathered = all_gather_object(self._own())
        self._gathered_at = runner.epoch, runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the states of all processes; none if only the main one of several saves, see `gather`."""
        checkpoint[_SIZES] = input_sizes(runner.model)
        if runner.world_size == 1:
            checkpoint[_KEY] = [self._own()]
        else:
            checkpoint[_KEY] = self._gathered if self._gathered_at == (runner.epoch, runner.iter) else []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep this process's states of a checkpoint that is resumed from."""
        if not runner._resume:
            return
        self._sizes = checkpoint.get(_SIZES, [])
        if names := forgetful_modules(runner.model):
            warn_inexact(f"what {', '.join(names)} has learned about its samples is not in a checkpoint")
        states = checkpoint.get(_KEY, [])
        if len(states) != runner.world_size:
            held = f"of {len(states)} processes, and there are {runner.world_size}" if states else "of no process"
            warn_inexact(f"the checkpoint holds the random generators {held}")
            return
        self._restored = states[get_rank()]

    def before_train(self, runner: Runner) -> None:
        """Restore the states."""
        set_input_sizes(runner.model, self._sizes)
        self._sizes = []
        if self._restored is not None:
            set_generator_states(self._restored)
            self._restored = None

    def before_val(self, runner: Runner) -> None:
        """Note the states: a validation must not change the generators, whether it runs before or after a kill."""
        self._before_val = generator_states()

    def after_val(self, runner: Runner) -> None:
        """Undo what the validation drew."""
        if self._before_val is not None:
            set_generator_states(self._before_val)
            self._before_val = None

    def _own(self) -> dict:
        return self._before_val or generator_states()


def warn_inexact(reason: str) -> None:
    """Tell the user why a resumed training differs from an uninterrupted one."""
    print_log(f"this resume is not exact: {reason}", logger="current", level=logging.WARNING)
