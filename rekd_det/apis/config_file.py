"""Read a config file with the options of a command line, and report what would silently do nothing."""

import difflib
import os
import os.path as osp
import warnings
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from rekd_det.apis.preflight import PreflightError
from rekd_det.engine.utils import RUNNER_KEYS
from rekd_det.models.algorithms.rekd_distill import ReKDDistill
from rekd_det.utils.config_types import type_name
from rekd_det.utils.errors import InputError, did_you_mean
from rekd_det.utils.options import options_of
from rekd_det.utils.pair_config import check_preprocessors, is_pair, package_config, resolve_model_config

# Keys at a config's top level that mmengine or the tools read.
_READ_KEYS = RUNNER_KEYS | {"_scope_", "custom_imports", "model_wrapper_cfg", "tta_model", "tta_pipeline"}


def read_config(path: str, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and merge the options of a command line into it.

    Args:
        path: The config file, or the name of a package's, such as 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'.
        options: What ``--cfg-options`` gave: dotted keys and values.

    Raises:
        PreflightError: If there is no such file, or an option's first key names nothing.
        PairError: If a package has no such config, or a pair has two data preprocessors that differ.
    """
    cfg = package_config(path, "config") if "::" in path else _config_of_file(path)
    _warn_of_mistyped_keys(cfg, path)
    if options:
        _check_pair_options(cfg.get("model"), options)
        merge_options(cfg, options, path)
    if is_pair(cfg.get("model")):
        _check_one_preprocessor(cfg)
    return cfg


def _config_of_file(path: str) -> Config:
    if not osp.isfile(path):
        raise PreflightError(f"config '{path}' does not exist (relative paths start at {os.getcwd()})")
    if not path.endswith((".py", ".json", ".yaml", ".yml")):
        raise PreflightError(f"config '{path}' is not a config: expected a .py, .json or .yaml file")
    try:
        return Config.fromfile(path)
    except InputError:
        raise
    except Exception as error:  # a config is a program and may raise any exception
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise PreflightError(f"config '{path}' can't be read: {type(error).__name__}: {reason}") from error


def _warn_of_mistyped_keys(cfg: Config, path: str) -> None:
    for key in cfg.keys() - _READ_KEYS:
        close = difflib.get_close_matches(key, _READ_KEYS, n=1, cutoff=0.9)
        if close:
            warnings.warn(f"{path}: nothing reads '{key}'; did you mean '{close[0]}'?", stacklevel=3)


def _check_one_preprocessor(cfg: Config) -> None:
    """Raise PairError if a pair has a data preprocessor beside its student's own that says something else."""
    student = resolve_model_config(cfg.model.architecture, "model.architecture")
    check_preprocessors(cfg.get("data_preprocessor"), student)
    outer = cfg.model.get("data_preprocessor")
    if outer is not None and "type" not in outer:  # one with a type is MMRazor's way, for training and test
        check_preprocessors(outer, student)


def merge_options(cfg: Config, options: Mapping[str, Any], path: str) -> None:
    """Merge the options of a command line into a config that was read from ``path``.

    Raises:
        PreflightError: If an option's first key names nothing, or an option does not fit.
    """
    _check_options(cfg, options)
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError) as error:
        raise PreflightError(f"--cfg-options do not fit '{path}': {error}") from error
    except AttributeError as error:  # mmengine looks for keys in an element of a list, and in what has none
        keys = [key for key in options if any(part.isdigit() for part in key.split("."))] or options
        raise PreflightError(
            f"--cfg-options {', '.join(keys)} can't be set in '{path}': after a number there must be a key of a dict, "
            "as in param_scheduler.0.KEY=VALUE. To replace an element of a list, give the whole list"
        ) from error


def _check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    for key in options:
        top, _, rest = key.partition(".")
        if top in _READ_KEYS:
            continue
        if top == "distill" and is_pair(cfg.get("model")):
            raise PreflightError(
                f"--cfg-options {key}: `distill` is copied into `model` while the config is read, and changing it "
                f"afterwards does nothing; write model.{rest or 'distiller'}=..."
            )
        if top not in cfg:
            raise PreflightError(
                f"--cfg-options {key}: the config has no '{top}'{did_you_mean(top, _READ_KEYS | set(cfg))}"
            )
        warnings.warn(
            f"--cfg-options {key}: '{top}' is a variable of the config file, and what was computed "
            f"from it stays; set the keys that use it (data_root: train_dataloader.dataset."
            "data_root and the like)",
            stacklevel=3,
        )


def _check_pair_options(model: Any, options: Mapping[str, Any]) -> None:
    """Raise PreflightError if a key of ``model`` is not one of ReKDDistill's, which a test would leave out silently."""
    if not is_pair(model) or type_name(model.get("type")) != ReKDDistill.__name__:
        return
    known = options_of(ReKDDistill) | {"type"}
    for option in options:
        first, _, key = option.partition(".")
        name = key.partition(".")[0]
        if first != "model" or not key or name in known:
            continue
        # A key of the student's is no typo, however similar one of the distillation's is.
        close = "" if name in model["architecture"] else did_you_mean(name, known)
        raise PreflightError(
            f"--cfg-options {option}: the model is a distillation, which has no such option{close or '.'} Options of "
            "the student are under model.architecture, those of the teacher under model.teacher.cfg_options"
        )
