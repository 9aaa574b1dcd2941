"""ShortHistoryHook: keep the histories of what is logged short."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

_KEPT = 10_000  # values of each name; mmengine keeps a million


class ShortHistoryHook(Hook):
    """Drops the oldest values of a training's scalars, of which a distillation has twice as many as a detector.

    mmengine copies the whole history of each at every iteration, and saves it in every checkpoint: late in a training
    of 264,000 iterations, those of a Cascade R-CNN with its distillation would be 101 MB. The log averages over a
    window of a few values, unless ``log_processor.custom_cfg`` names a longer one.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out how many values the log needs; None: all."""
        processor = runner.log_processor
        windows = [processor.window_size, *(c.get("window_size") or 0 for c in processor.custom_cfg)]
        named = any(isinstance(window, str) for window in windows)  # 'epoch', 'global'
        self._kept = None if named else max(_KEPT, *windows)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Bound the histories; a new name may come at any iteration."""
        if self._kept is not None:
            for name, history in runner.message_hub.log_scalars.items():
                if name.startswith("train/"):
                    history.max_length = self._kept
