"""The config of an arm, merged with its options and checked."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrazor.registry import MODELS

from rekd_det.apis.config_file import merge_options, read_config
from rekd_det.utils.config_types import default_scope, type_class
from rekd_det.utils.errors import InputError, did_you_mean
from rekd_det.utils.options import options_of
from rekd_det.utils.pair_config import is_pair
from studies.runner.arm_errors import naming
from studies.runner.spec import PRETRAIN, Arm


@functools.cache
def _file(path: str, changed: int) -> Config:
    """A config file as it is; arms share a few of them, and reading one takes a second."""
    return read_config(path)


def read_arm_config(arm: Arm) -> Config:
    """Read an arm's config, merge its options, and build a pair's distillation loss.

    Raises:
        InputError: the config or the options can't be used.
    """
    with naming(arm.name):
        config = copy.deepcopy(_file(str(arm.config), arm.config.stat().st_mtime_ns))
        merge_options(config, arm.options, str(arm.config))
        _check_parts(config, tested=arm.name != PRETRAIN)
        if is_pair(config.model):
            init_default_scope(default_scope(config))
            _check_keys(config.model)
            MODELS.build(copy.deepcopy(config.model.distiller))
    return config


def _check_parts(config: Config, tested: bool) -> None:
    """Raise InputError for a key without which a run can't be planned."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        raise InputError(f"model must be a dict, got {model!r}")
    if is_pair(model) and not isinstance(model.get("distiller"), Mapping):
        raise InputError(f"model.distiller must be a dict, got {model.get('distiller')!r}")
    loop = config.get("train_cfg") or {}
    length = loop.get("max_epochs") or loop.get("max_iters")
    if not isinstance(length, int) or length < 1:
        raise InputError(f"train_cfg must have max_epochs or max_iters, a whole number >= 1, got {dict(loop)}")
    for key in ("train_dataloader", "test_dataloader", "test_evaluator"):
        if not config.get(key) and (tested or key == "train_dataloader"):
            raise InputError(f"{key} is missing: a study trains each arm and then tests it")


def _check_keys(model: Mapping) -> None:
    """Building a pair takes its teacher, which may be hours of training away."""
    kind = type_class(model["type"], MODELS)
    if kind is None:
        return  # the training says so
    known = options_of(kind)
    for key in model:
        if key not in (*known, "type", "_scope_"):
            raise InputError(f"model.{key}: {kind.__name__} has no such option{did_you_mean(key, known)}")
