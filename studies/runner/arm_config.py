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
from studies.runner.spec import Arm


@functools.cache
def _file(path: str, changed: int) -> Config:
    """A config file as it is; arms share a few of them, and reading one takes a second."""
    return read_config(path)


def read_arm_config(arm: Arm) -> Config:
    """Read an arm's config, merge its options, and build a pair's distillation loss.

    Raises:
        InputError: the config or the options can't be used.
    """
    try:
        config = copy.deepcopy(_file(str(arm.config), arm.config.stat().st_mtime_ns))
        merge_options(config, arm.options, str(arm.config))
        if is_pair(config.get("model")):
            init_default_scope(default_scope(config))
            _check_keys(config.model)
            MODELS.build(copy.deepcopy(config.model.distiller))
    except (InputError, ValueError, TypeError, KeyError) as error:  # how losses and registries refuse
        raise InputError(f"arm '{arm.name}': {error}") from error
    if config.get("model") is None:
        raise InputError(f"arm '{arm.name}': the config '{arm.config}' has no `model`")
    return config


def _check_keys(model: Mapping) -> None:
    """Building a pair takes its teacher, which may be hours of training away."""
    kind = type_class(model["type"], MODELS)
    if kind is None:
        return  # the training says so
    known = options_of(kind)
    for key in model:
        if key not in (*known, "type", "_scope_"):
            raise InputError(f"model.{key}: {kind.__name__} has no such option{did_you_mean(key, known)}")
