"""Where in its data a training stands, in checkpoints and after a resume."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from rekd_det.engine.runner.epoch_loop import ResumableEpochLoop
from rekd_det.engine.runner.generators_hook import warn_inexact
from rekd_det.engine.runner.seeded_loader import SeededLoader, stateful_transforms

_KEY = "data_position"


class PositionHook(Hook):
    """Carries the position in the data through checkpoints, and repeats a validation that a kill interrupted.

    A checkpoint is written before the validation that follows it, and again if that one finds a new best. So a
    checkpoint that was not written within a validation is validated on resume, where one is due.
    """

    priority = "LOWEST"  # validates in before_train, when all other hooks are ready

    def __init__(self) -> None:
        self._began = 0, 0  # the current epoch, and the iteration that it began at
        self._done = 0  # batches of the epoch that is resumed in its middle
        self._validating = False
        self._loaded: dict[str, Any] | None = None
        self._validates_first = False

    def before_train_epoch(self, runner: Runner) -> None:
        """Note where the epoch begins, or began before a resume."""
        self._began = runner.epoch, runner.iter - self._done
        self._done = 0
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop) and isinstance(loop.dataloader, SeededLoader):
            # Counted anew: between two epochs a hook may have read batches for itself (MMPretrain's PreciseBNHook).
            loop.dataloader.batch_sampler.number = self._began[1]

    def before_val(self, runner: Runner) -> None:
        """Note that what is saved from now on is validated."""
        self._validating = True

    def after_val(self, runner: Runner) -> None:
        """Note that the training goes on."""
        self._validating = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the position."""
        meta, (epoch, iteration) = checkpoint["meta"], self._began
        inside = isinstance(runner.train_loop, EpochBasedTrainLoop) and meta["epoch"] == epoch
        in_epoch = meta["iter"] - iteration if inside else 0
        checkpoint[_KEY] = {**_layout(runner), "in_epoch": in_epoch, "validated": self._validating}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the position of a checkpoint that is resumed from."""
        if runner._resume:
            self._loaded = checkpoint.get(_KEY)

    def go_on(self, runner: Runner) -> None:
        """Bring the data to the checkpoint's position; the loop already has its epoch and iteration."""
        loop, loader = runner.train_loop, runner.train_loop.dataloader
        seeded = isinstance(loader, SeededLoader)
        if not seeded:
            warn_inexact("its training data can't be seeded by sample (an iterable data set, or no batch sampler)")
        elif names := stateful_transforms(loader.dataset):
            warn_inexact(
                f"{', '.join(names)} mix images that earlier samples have left in their worker's cache, and the caches "
                "start empty"
            )
        done = 0
        if isinstance(loop, EpochBasedTrainLoop):
            self._done = done = self._done_in_epoch(runner, seeded)
            # mmengine counts max_epochs of the present length; those before may have had another.
            loop._max_iters = loop.iter - done + (loop.max_epochs - loop.epoch) * len(loader)
            if isinstance(loop, ResumableEpochLoop):
                loop.done = done
            if seeded:
                loader.to_skip = done
        elif isinstance(loop, IterBasedTrainLoop):
            if self._loaded and (now := _layout(runner)) != (old := {key: self._loaded.get(key) for key in now}):
                warn_inexact(f"{_told(now)} now, {_told(old)} before: the order of the images is different")
            if seeded:
                # The loop skips as many batches as it has done; the loader then reads no images for them.
                loader.to_skip, loader.yields_skipped = loop.iter, True
        validated = self._loaded is not None and self._loaded.get("validated", False)
        self._validates_first = not validated and done == 0 and loop.iter > 0

    def before_train(self, runner: Runner) -> None:
        """Validate what the checkpoint holds, if the validation after it is due and may have been interrupted."""
        if not self._validates_first:
            return
        self._validates_first = False
        loop = runner.train_loop
        if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
            return
        loop._decide_current_val_interval()
        now, end = (
            (loop.epoch, loop.max_epochs) if isinstance(loop, EpochBasedTrainLoop) else (loop.iter, loop.max_iters)
        )
        if now >= loop.val_begin and (now % loop.val_interval == 0 or now == end):
            runner.logger.info("The checkpoint was written before its validation, which may have been interrupted.")
            runner.val_loop.run()

    def _done_in_epoch(self, runner: Runner, seeded: bool) -> int:
        """How many batches of the current epoch are done and can be skipped."""
        loop = runner.train_loop
        length = len(loop.dataloader)
        if self._loaded is None:  # another Runner's checkpoint
            done = loop.iter - loop.epoch * length
            if 0 <= done <= length and seeded:
                return done
            warn_inexact(f"the checkpoint does not say its position in the epoch; epoch {loop.epoch + 1} starts anew")
            return 0
        done = self._loaded["in_epoch"]
        now = _layout(runner)
        old = {key: self._loaded.get(key) for key in now}
        if not _covers_the_same(now, old):
            again = f", the {done} iterations done of it are repeated" if done else ""
            warn_inexact(
                f"an epoch has {length} iterations now ({_told(now)}) and had {old['epoch_length']} ({_told(old)}). "
                f"The training continues at the start of epoch {loop.epoch + 1}{again}; its iterations are counted on "
                f"from {loop.iter}. Schedules that were converted to iterations keep the old length of an epoch"
            )
            return 0
        if done and not seeded:
            warn_inexact(f"epoch {loop.epoch + 1} starts anew")
            return 0
        return done


def _layout(runner: Runner) -> dict[str, Any]:
    loader = runner.train_loop.dataloader
    try:
        length: int | None = len(loader)
    except TypeError:  # an iterable data set
        length = None
    batch_size = getattr(getattr(loader, "batch_sampler", None), "batch_size", getattr(loader, "batch_size", None))
    return {"epoch_length": length, "processes": runner.world_size, "batch_size": batch_size}


def _covers_the_same(now: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether a batch of all processes holds the same images in both."""
    if None in (*now.values(), *old.values()):
        return now == old
    same_total = now["processes"] * now["batch_size"] == old["processes"] * old["batch_size"]
    return same_total and now["epoch_length"] == old["epoch_length"]


def _told(layout: dict[str, Any]) -> str:
    return f"{layout['processes']} process(es) with batch size {layout['batch_size']}"
