"""Read a config file with the options of a command line, and report what would silently do nothing."""

import os
import os.path as osp
import warnings
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from rekd_det.apis.pair_keys import check_pair_keys, check_pair_options
from rekd_det.engine.utils import RUNNER_KEYS
from rekd_det.utils.config_options import merge_into
from rekd_det.utils.config_types import default_scope
from rekd_det.utils.errors import InputError, did_you_mean, one_line
from rekd_det.utils.pair_config import is_pair
from rekd_det.utils.read_config import package_config, read_file

#: keys at a config's top level that mmengine or the tools read; others are variables
READ_KEYS = RUNNER_KEYS | {"_scope_", "custom_imports", "model_wrapper_cfg", "tta_model", "tta_pipeline"}


def read_config(path: str, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and merge the options of a command line into it.

    Args:
        path: The config file, or the name of a package's, such as 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'.
        options: What ``--cfg-options`` gave: dotted keys and values.

    Raises:
        InputError: If there is no such file, a package has no such config, an option names nothing, a key does not go
            with a pair, or a pair has two data preprocessors that differ.
    """
    cfg = package_config(path, "config") if "::" in path else _config_of_file(path)
    _warn_of_mistyped_keys(cfg, path)
    if options:
        check_pair_options(cfg.get("model"), options)
        merge_options(cfg, options, path)
    check_pair_keys(cfg)
    if not cfg.get("default_scope"):  # mmengine would look for mmdet's parts among its own
        cfg.default_scope = default_scope(cfg)
    return cfg


def _config_of_file(path: str) -> Config:
    if not osp.isfile(path):
        raise InputError(f"config '{path}' does not exist (relative paths start at {os.getcwd()})")
    if not path.endswith((".py", ".json", ".yaml", ".yml")):
        raise InputError(f"config '{path}' is not a config: expected a .py, .json or .yaml file")
    try:
        return read_file(path)
    except InputError:
        raise
    except Exception as error:  # a config is a program and may raise any exception
        reason = one_line(error) or "no reason given; mmengine's new style can't call what a config imports"
        raise InputError(f"config '{path}' can't be read: {type(error).__name__}: {reason}") from error


def _warn_of_mistyped_keys(cfg: Config, path: str) -> None:
    for key in cfg.keys() - READ_KEYS - getattr(cfg, "_imported_names", set()):
        hint = did_you_mean(key, READ_KEYS, similarity=0.9)
        if hint:
            warnings.warn(f"{path}: nothing reads '{key}'{hint}", stacklevel=3)


def merge_options(cfg: Config, options: Mapping[str, Any], path: str) -> None:
    """Merge the options of a command line into a config that was read from ``path``.

    Raises:
        InputError: If an option's first key names nothing, or an option does not fit.
    """
    _check_options(cfg, options)
    merge_into(cfg, options, "--cfg-options", path)


def _check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    for key in options:
        top, _, rest = key.partition(".")
        if top in READ_KEYS:
            continue
        if top == "distill" and is_pair(cfg.get("model")):
            raise InputError(
                f"--cfg-options {key}: `distill` is copied into `model` while the config is read, and changing it "
                f"afterwards does nothing; write model.{rest or 'distiller'}=..."
            )
        if top not in cfg:
            raise InputError(f"--cfg-options {key}: the config has no '{top}'{did_you_mean(top, READ_KEYS | set(cfg))}")
        warnings.warn(
            f"--cfg-options {key}: '{top}' is a variable of the config file, and what was computed "
            f"from it stays; set the keys that use it (data_root: train_dataloader.dataset."
            "data_root and the like)",
            stacklevel=3,
        )
