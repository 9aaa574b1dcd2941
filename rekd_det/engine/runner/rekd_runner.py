"""ReKDRunner: mmengine's Runner, with a resume that is exact and checkpoints that a kill can't damage."""

from __future__ import annotations

import copy
import logging
import os
import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from rekd_det.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from rekd_det.engine.runner.latest_checkpoint import check_resumable, find_latest_checkpoint
from rekd_det.engine.runner.randomness import generator_states, set_generator_states
from rekd_det.engine.runner.seeded_loader import SeededLoader
from rekd_det.utils.atomic import replacing
from rekd_det.utils.checkpoint import can_be_checked, is_local

_STATES = "generator_states"


@RUNNERS.register_module()
class ReKDRunner(Runner):
    """A Runner whose resumed training continues the interrupted one to the last bit, where the hardware allows it.

    A config chooses it with ``runner_type='ReKDRunner'``. Beyond mmengine's Runner it

    * keeps the states of every process's random generators in the checkpoint and restores them on resume; validation
      leaves no trace in them;
    * seeds each training sample by the run's seed and the number of its batch, so that augmentation does not depend on
      how many workers there are, how long they live, or where the run was interrupted;
    * on resume takes the seed from the checkpoint, and goes on in the middle of an epoch, without reading the images
      of the batches before it;
    * writes a checkpoint under a temporary name and renames it, keeps the old one until then, and resumes from the
      newest sound one.

    Exact on the CPU. On a GPU the same holds as far as its kernels are deterministic (``randomness.deterministic``).
    What mmdet itself keeps outside of a checkpoint is lost as with its own Runner: the running statistics of
    ``DynamicRoIHead``, the current size of ``BatchSyncRandomResize``, gradients accumulated so far.
    """

    # mmengine assigns these in methods that mypy does not look into.
    _train_dataloader: Any
    _load_from: str | None
    _resume: bool

    @classmethod
    def from_cfg(cls, cfg: Config | dict) -> Runner:
        """Build from a config; a resumed run has the seed that its checkpoint names.

        The config that is written beside the log and into checkpoints names this package in ``custom_imports``, so
        that it can be read without the file it came from.
        """
        cfg = copy.copy(cfg)
        imports = dict(cfg.get("custom_imports") or {})
        names = imports.get("imports") or []
        names = [names] if isinstance(names, str) else list(names)
        if "rekd_det" not in names:
            cfg["custom_imports"] = {**imports, "imports": [*names, "rekd_det"]}
        if cfg.get("resume"):
            path = cfg.get("load_from") or find_latest_checkpoint(cfg["work_dir"])
            if path is not None and can_be_checked(path):
                seed = check_resumable(path).get("seed")
                cfg = copy.deepcopy(cfg)
                cfg["randomness"] = {**(cfg.get("randomness") or {}), "seed": seed}
        return super().from_cfg(cfg)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register mmengine's default hooks, with SafeCheckpointHook in place of CheckpointHook."""
        hooks = dict(hooks or {})
        checkpoint = hooks.setdefault("checkpoint", dict(type="CheckpointHook", interval=1))
        if isinstance(checkpoint, Mapping) and checkpoint.get("type") in ("CheckpointHook", CheckpointHook):
            hooks["checkpoint"] = {**checkpoint, "type": SafeCheckpointHook}
        super().register_default_hooks(hooks)
        self._generators = _GeneratorsHook()
        self.register_hook(self._generators)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop over seeded samples."""
        config = self._train_dataloader
        if not isinstance(loop, BaseLoop) and isinstance(config, Mapping):
            different = self._randomness_cfg.get("diff_rank_seed", False)
            loader = self.build_dataloader(config, seed=self.seed, diff_rank_seed=different)
            self._train_dataloader = SeededLoader.around(loader, self.seed)
        try:
            return super().build_train_loop(loop)
        finally:
            self._train_dataloader = config  # scale_lr reads the batch size there

    def load_or_resume(self) -> None:
        """As mmengine's, but auto-resume passes over a damaged checkpoint."""
        if self._resume and self._load_from is None and not self._has_loaded:
            self._load_from = find_latest_checkpoint(self.work_dir)
            if self._load_from is None:
                self._resume = False
                self.logger.info(f"No checkpoint in {self.work_dir} to resume from: the training starts anew.")
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's, and bring the data to where the checkpoint stands."""
        super().resume(filename, *args, **kwargs)
        loop = self.train_loop
        loader = loop.dataloader
        if not isinstance(loader, SeededLoader):
            self._warn("its training data can't be seeded by sample (an iterable data set, or no batch sampler)")
        elif isinstance(loop, IterBasedTrainLoop):
            # The loop passes over as many batches as it has done; told so, the loader reads no images for them.
            loader.to_skip, loader.yields_skipped = loop.iter, True
        elif isinstance(loop, EpochBasedTrainLoop):
            loader.to_skip = max(loop.iter - loop.epoch * len(loader), 0)
            loader.batch_sampler.number = loop.iter - loader.to_skip
        accumulated = getattr(self.optim_wrapper, "_accumulative_counts", 1)
        if loop.iter % accumulated:
            self._warn(
                f"the checkpoint lies inside an accumulation of {accumulated} iterations, whose gradients are lost"
            )

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's, but a local file appears under its name only when it is complete."""
        self._generators.gather()  # by every process, whereas only the main one writes
        target = osp.join(out_dir, filename)
        if not is_local(target) or kwargs.get("backend_args") or kwargs.get("file_client_args"):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        if is_main_process():
            os.makedirs(osp.dirname(target), exist_ok=True)
            with replacing(target) as partial:
                super().save_checkpoint(out_dir, osp.relpath(partial, out_dir), *args, **kwargs)

    def _warn(self, reason: str) -> None:
        print_log(f"this resume is not exact: {reason}", logger="current", level=logging.WARNING)


class _GeneratorsHook(Hook):
    """Carries the states of the random generators through checkpoints, and around validation."""

    priority = "LOWEST"  # so that before_train restores after all that other hooks draw

    def __init__(self) -> None:
        self._gathered: list[dict] = []
        self._restored: dict | None = None
        self._before_val: dict | None = None

    def gather(self) -> None:
        """Collect what the next checkpoint holds, one entry per process."""
        self._gathered = all_gather_object(self._before_val or generator_states())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[_STATES] = self._gathered

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        states = checkpoint.get(_STATES, [])
        if len(states) != runner.world_size:
            held = f"of {len(states)} processes, and there are {runner.world_size}" if states else "of no process"
            runner._warn(f"the checkpoint holds the random generators {held}")
            return
        self._restored = states[get_rank()]

    def before_train(self, runner: Runner) -> None:
        if self._restored is not None:
            set_generator_states(self._restored)
            self._restored = None

    def before_val(self, runner: Runner) -> None:
        # A resumed run does not repeat the validation after its checkpoint, so that one must not move the generators.
        self._before_val = generator_states()

    def after_val(self, runner: Runner) -> None:
        if self._before_val is not None:
            set_generator_states(self._before_val)
            self._before_val = None
