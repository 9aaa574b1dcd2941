"""The counts of EarlyStoppingHooks in checkpoints, so that a resumed training ends where it would have ended."""

from __future__ import annotations

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import Runner

_KEY = "early_stopping"


class EarlyStoppingStateHook(Hook):
    """Carries through checkpoints the best value of each monitored metric, and for how long it has not improved."""

    def before_run(self, runner: Runner) -> None:
        """Let the hooks count a validation before a best checkpoint is written of it."""
        stopping = _stopping(runner)
        others = [hook for hook in runner.hooks if hook not in stopping]
        saving = next((i for i, hook in enumerate(others) if isinstance(hook, CheckpointHook)), len(others))
        runner._hooks = [*others[:saving], *stopping, *others[saving:]]

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the counts."""
        if counts := {hook.monitor: (hook.wait_count, float(hook.best_score)) for hook in _stopping(runner)}:
            checkpoint[_KEY] = counts

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the counts of a checkpoint that is resumed from, and end the training if one has ended it."""
        counts = checkpoint.get(_KEY, {}) if runner._resume else {}
        for hook in _stopping(runner):
            if hook.monitor not in counts:  # the best value of another metric says nothing about this one
                continue
            hook.wait_count, hook.best_score = counts[hook.monitor]
            threshold = hook.stopping_threshold
            reached = threshold is not None and hook.rule_map[hook.rule](hook.best_score, threshold)
            if reached or hook.wait_count >= hook.patience:
                runner.train_loop.stop_training = True
                runner.logger.warning(
                    f"EarlyStoppingHook({hook.monitor}) had ended this training: it goes on only with another "
                    f"{'stopping_threshold' if reached else 'patience'}"
                )


def _stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
