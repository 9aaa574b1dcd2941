"""ReKDRunner: mmengine's Runner with an exact resume and checkpoints that a kill can't damage."""

from __future__ import annotations

import copy
import os
import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, LOOPS, RUNNERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from rekd_det.engine.hooks.distill_log_hook import DistillLogHook
from rekd_det.engine.hooks.pair_check_hook import PairCheckHook
from rekd_det.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from rekd_det.engine.runner.alone import alone_in
from rekd_det.engine.runner.categories_hook import CategoriesHook
from rekd_det.engine.runner.config_changes import describe_changes
from rekd_det.engine.runner.early_stopping_state_hook import EarlyStoppingStateHook
from rekd_det.engine.runner.epoch_loop import ResumableEpochLoop
from rekd_det.engine.runner.full_disk import full_disk_explained
from rekd_det.engine.runner.generators_hook import GeneratorsHook, warn_inexact
from rekd_det.engine.runner.last_start_hook import LastStartHook
from rekd_det.engine.runner.latest_checkpoint import check_resumable, find_latest_checkpoint
from rekd_det.engine.runner.model_state import end_if_diverged
from rekd_det.engine.runner.position_hook import PositionHook
from rekd_det.engine.runner.seeded_loader import SeededLoader
from rekd_det.engine.runner.short_history_hook import ShortHistoryHook
from rekd_det.engine.runner.start import decide_start
from rekd_det.engine.runner.whole_model import check_whole
from rekd_det.engine.runner.wrapping import check_wrapper
from rekd_det.engine.utils import model_of
from rekd_det.models.algorithms.rekd_distill import ReKDDistill
from rekd_det.utils.atomic import replacing
from rekd_det.utils.checkpoint import can_be_checked, is_local
from rekd_det.utils.config_types import type_class, type_name
from rekd_det.utils.custom_imports import import_rekd_det
from rekd_det.utils.errors import CheckpointError, InputError
from rekd_det.utils.pair_config import is_pair
from rekd_det.utils.shadow import shadowed


@RUNNERS.register_module()
class ReKDRunner(Runner):
    """A Runner whose resumed training is bit-identical to an uninterrupted one, if the hardware allows it.

    ``tools/train.py`` takes it for every config without ``runner_type``; for other programs a config chooses it with
    ``runner_type='rekd_det.ReKDRunner'``. Its arguments are mmengine's, which are keys of the config. In addition to
    mmengine's Runner it

    * keeps the states of every process's random generators in the checkpoint and restores them on resume; validation
      leaves no trace in them;
    * seeds each training sample by the run's seed and the number of its batch, so that augmentation does not depend on
      how many workers there are, how long they live, or where the run was interrupted;
    * on resume takes the seed from the checkpoint, and continues in the middle of an epoch without reading the images
      of the batches before it; if an epoch now has another length, it continues at the epoch's start;
    * repeats a validation that a kill interrupted;
    * lets the main process decide for all where to resume, and sends the checkpoint to nodes without it;
    * checks and logs a distillation (``PairCheckHook``, ``DistillLogHook``) even if ``custom_hooks`` lacks these hooks;
    * logs which keys of the config differ from the checkpoint's, and which value applies;
    * keeps only the newest values of each logged scalar in memory and in checkpoints (``ShortHistoryHook``);
    * writes a checkpoint under a temporary name and renames it, keeps the old one until then, and resumes from the
      newest sound one;
    * on a new start in a used folder moves the checkpoints there aside, so that ``--resume`` continues the last start.

    It is exact on the CPU, and on a GPU if its kernels are deterministic (``randomness.deterministic``). As with
    mmengine's own Runner, these are lost, and the log says so: the running statistics of ``DynamicRoIHead``, the images
    in the caches of ``CachedMosaic`` and ``CachedMixUp``, gradients accumulated so far. With several processes, a
    third-party hook that saves a checkpoint itself gets one without the states of the random generators.
    """

    # mmengine assigns these in methods that mypy does not look into.
    model: Any
    _train_dataloader: Any
    _load_from: str | None
    _resume: bool

    @classmethod
    def from_cfg(cls, cfg: Config | dict) -> Runner:
        """Build from a config; a resumed run has the seed that its checkpoint names.

        The config that is saved with the log and in checkpoints names this package in ``custom_imports`` if it needs
        it, so that it can be read without the file it came from.
        """
        cfg = copy.copy(cfg)
        if "runner_type" in cfg or is_pair(cfg.get("model")):
            import_rekd_det(cfg)
        notes = []
        if cfg.get("resume"):
            cfg = copy.deepcopy(cfg)
            notes.append(decide_start(cfg))
            if cfg["resume"] and can_be_checked(path := cfg["load_from"]):
                meta = check_resumable(path)
                notes.append(describe_changes(meta, cfg))
                cfg["randomness"] = {**(cfg.get("randomness") or {}), "seed": meta.get("seed")}
        with full_disk_explained(cfg["work_dir"]):
            runner = super().from_cfg(cfg)
        for note in filter(None, notes):
            runner.logger.warning(note)
        return runner

    def train(self) -> nn.Module:
        """As mmengine's, but alone in its folder, and a full disk ends it with a message that says what is left."""
        with full_disk_explained(self.work_dir), alone_in(self.work_dir):
            return super().train()

    def dump_config(self) -> None:
        """Do nothing while the Runner is built: another training may have the folder. LastStartHook writes it."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap for several processes, in a way that works for a distillation."""
        if self.distributed:
            check_wrapper(self.cfg, model_wrapper_cfg, model)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """As mmengine's. A constructor of its own kind (ConvNeXt's decay by layer) gets the student alone.

        It knows the layers by a detector's names. What else is trained, the connectors of feature losses, is added with
        the optimizer's own options.
        """
        model = model_of(self)
        kind = isinstance(optim_wrapper, Mapping) and optim_wrapper.get("constructor")
        if type_name(kind) in ("", "DefaultOptimWrapperConstructor") or not isinstance(model, ReKDDistill):
            return super().build_optim_wrapper(optim_wrapper)
        with shadowed(self, "model", model.student):
            built = super().build_optim_wrapper(optim_wrapper)
        connectors = [(f"distiller.{n}", p) for n, p in model.distiller.named_parameters() if p.requires_grad]
        if connectors:
            # torch wants a name for each weight, or for none; mmdet's constructors write them into the groups.
            named = "param_names" in built.optimizer.param_groups[0]
            built.optimizer.add_param_group({"params": connectors if named else [p for _, p in connectors]})
        return built

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        """As mmengine's. A distillation has its check and its log also where a config's `custom_hooks` lacks them.

        A config that sets `custom_hooks` replaces those of its base, and the teacher would teach other categories.
        """
        super().register_hooks(default_hooks, custom_hooks)
        if isinstance(model_of(self), ReKDDistill):
            for kind in (PairCheckHook, DistillLogHook):
                if not any(isinstance(hook, kind) for hook in self.hooks):
                    self.register_hook(kind())

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register mmengine's default hooks, with SafeCheckpointHook in place of CheckpointHook."""
        hooks = dict(hooks or {})
        checkpoint = hooks.setdefault("checkpoint", dict(type="CheckpointHook", interval=1))
        if isinstance(checkpoint, Mapping) and type_class(checkpoint.get("type"), HOOKS) is CheckpointHook:
            hooks["checkpoint"] = {**checkpoint, "type": SafeCheckpointHook}
        super().register_default_hooks(hooks)
        self._generators, self._position = GeneratorsHook(), PositionHook()
        self.register_hook(self._generators)
        self.register_hook(self._position)
        self.register_hook(CategoriesHook(), priority="VERY_HIGH")
        self.register_hook(EarlyStoppingStateHook())
        self.register_hook(LastStartHook())
        self.register_hook(ShortHistoryHook())

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop over seeded samples."""
        config = self._train_dataloader
        if not isinstance(loop, BaseLoop) and isinstance(config, Mapping):
            different = self._randomness_cfg.get("diff_rank_seed", False)
            loader = self.build_dataloader(config, seed=self.seed, diff_rank_seed=different)
            self._train_dataloader = SeededLoader.around(loader, self.seed)
        if isinstance(loop, Mapping) and (
            type_class(loop["type"], LOOPS) is EpochBasedTrainLoop if "type" in loop else loop.get("by_epoch")
        ):
            loop = {**{k: v for k, v in loop.items() if k != "by_epoch"}, "type": ResumableEpochLoop}
        try:
            return super().build_train_loop(loop)
        finally:
            self._train_dataloader = config  # scale_lr reads the batch size there

    def load_or_resume(self) -> None:
        """As mmengine's, but auto-resume skips a damaged checkpoint."""
        if self._resume and self._load_from is None and not self._has_loaded:
            self._load_from = find_latest_checkpoint(self.work_dir)
            if self._load_from is None:
                self._resume = False
                self.logger.info(f"No checkpoint in {self.work_dir} to resume from: the training starts from scratch.")
        try:
            super().load_or_resume()
        except InputError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, AssertionError) as error:
            if not self._resume:
                raise
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(
                f"checkpoint '{self._load_from}' can't be resumed from: something in it is not what a training of this "
                f"config has left there ({what:.300}). Set back what the config changes, start from its weights alone "
                "(load_from in place of --resume), or name another with --resume"
            ) from error

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """As mmengine's, but one that is resumed from must have every weight and the schedule."""
        checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        if self._resume:
            check_whole(self, checkpoint, filename)
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's, and bring the data to the checkpoint's position."""
        super().resume(filename, *args, **kwargs)
        self._position.go_on(self)
        accumulated = getattr(self.optim_wrapper, "_accumulative_counts", 1)
        if self.train_loop.iter % accumulated:
            warn_inexact(
                f"the checkpoint is inside a gradient accumulation of {accumulated} iterations; its gradients are lost"
            )

    def gather_states(self) -> None:
        """Collect from all processes what an exact resume needs, for the checkpoints that are saved next.

        A collective call: by every process, right before :meth:`save_checkpoint`.

        Raises:
            NonFiniteLoss: in every process, if the last step's distillation loss was NaN or infinite in one. Its
                weights would replace sound ones.
        """
        end_if_diverged(self.model)
        self._generators.gather(self)

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's, but a local file appears under its name only when it is complete.

        Not collective: a hook may call it in the main process alone.

        Raises:
            CheckpointError: if the disk is full, or another write error occurs. Existing checkpoints are kept.
        """
        target = osp.join(out_dir, filename)
        if not is_local(target) or kwargs.get("backend_args") or kwargs.get("file_client_args"):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        if not is_main_process():
            return
        try:
            os.makedirs(osp.dirname(target) or ".", exist_ok=True)
            with replacing(target) as partial:
                super().save_checkpoint(out_dir, osp.relpath(partial, out_dir), *args, **kwargs)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint '{target}' can't be written ({error.strerror or error}); the earlier ones are "
                "unchanged. Free some space there, and continue from the last one with --resume"
            ) from error
