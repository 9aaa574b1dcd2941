"""The config file of one run, with everything that is known only when it starts."""

from __future__ import annotations

import copy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from rekd_det.utils.custom_imports import custom_imports
from studies.runner.data import settled_data
from studies.runner.run import Run

_IMPORTS = ("rekd_det", "studies.runner.step_seed")


def settle(run: Run, data: Path | None, first_weights: Path, teacher: tuple[Path, Path] | None = None) -> Config:
    """Complete a run's config.

    Args:
        run: a run of a plan.
        data: the generated data set; None leaves the config's own data.
        first_weights: checkpoint that the student starts from, unless the config names one.
        teacher: the teacher's config and checkpoint; None leaves the config's own.

    Returns:
        A new config, for ``tools/train.py`` and ``tools/test.py``.
    """
    cfg = settled_data(run, data)
    # All arms alike: an exact resume, and images that are augmented alike.
    cfg.runner_type = "ReKDRunner"
    cfg.custom_imports = dict(imports=list(dict.fromkeys([*custom_imports(cfg), *_IMPORTS])))
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), ConfigDict(type="StepSeedHook")]
    cfg.randomness = {**(cfg.get("randomness") or {}), "seed": run.seed}
    cfg.load_from = cfg.get("load_from") or str(first_weights)
    # A test follows the training; it can be repeated where a kill would lose the last validation.
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    if run.validate:
        cfg.train_cfg.val_interval = run.validate
        cfg.val_dataloader, cfg.val_evaluator = copy.deepcopy((cfg.test_dataloader, cfg.test_evaluator))
        cfg.val_cfg = dict(type="ValLoop")
    if teacher is not None:
        config, checkpoint = teacher
        cfg.model.teacher = ConfigDict(cfg_path=str(config))
        cfg.model.teacher_ckpt = str(checkpoint)
    return cfg
