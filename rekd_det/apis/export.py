"""The distilled student as a checkpoint of plain MMDetection."""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrazor.registry import MODELS as RAZOR_MODELS
from torch import nn

from rekd_det.apis.config_file import READ_KEYS
from rekd_det.utils.checkpoint import check_checkpoint_file, load_weights
from rekd_det.utils.checkpoint_content import (
    STUDENT_PREFIX,
    dataset_meta_of,
    is_distilled,
    meta_of,
    strip_student_prefix,
    weights_of,
)
from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.config_types import default_scope, type_name
from rekd_det.utils.custom_imports import custom_imports
from rekd_det.utils.errors import CheckpointError, InputError
from rekd_det.utils.pair_config import is_pair, student_config
from rekd_det.utils.registered_names import check_registered
from rekd_det.version import __version__

_MARK = "exported_by"  # in the meta of an export

#: the types of hooks that the export drops; nothing is imported to find out
_OUR_HOOK = re.compile(r"(mmrazor|rekd_det)\.\w+")

#: what MMDetection has in place of this package's classes
_PLAIN = {"FasterCocoMetric": "CocoMetric", "BF16OptimWrapper": "OptimWrapper"}

#: top-level keys of a pair's config that only serve the training
_TRAINING_KEYS = ("distill", "rekd_hooks", "runner_type", "resume", "load_from", "work_dir")


def stock_config(cfg: Config) -> Config:
    """The student's config without anything of this package, so that MMDetection reads it where this is not installed.

    A backbone of this package stays, and what imports it.

    Args:
        cfg: the config of a pair, or of the student alone.
    """
    cfg = student_config(cfg)
    for key in _TRAINING_KEYS:
        cfg.pop(key, None)
    left = [name for name in custom_imports(cfg) if name.partition(".")[0] != "rekd_det"]
    for node in config_nodes([cfg[key] for key in cfg]):
        kind = type_name(node.get("type"))
        if kind in _PLAIN:
            node["type"] = _PLAIN[kind]
        elif getattr(RAZOR_MODELS.module_dict.get(kind), "__module__", "").startswith("rekd_det.models.backbones."):
            left = ["rekd_det", *left]
    if left:
        cfg.custom_imports = {**(cfg.get("custom_imports") or {}), "imports": list(dict.fromkeys(left))}
    else:
        cfg.pop("custom_imports", None)
    return cfg


def check_carried_config(cfg: Config, source: str) -> None:
    """Raise InputError, naming ``source``, unless the student's part of a checkpoint's own config runs nothing.

    A variable that nothing reads is removed if it names other classes, such as the distiller's losses.
    """
    _check_text(cfg.to_dict(), source)
    names = custom_imports(cfg)
    if any(str(name).partition(".")[0] != "rekd_det" for name in names):
        raise InputError(
            f"the config inside {source} imports {', '.join(map(str, names))} (custom_imports); give a config that you "
            "trust with --config"
        )
    left_out = (*_TRAINING_KEYS, "model", "custom_hooks")
    parts = {key: value for key, value in cfg.items() if key not in left_out}
    parts["custom_hooks"] = [h for h in cfg.get("custom_hooks") or [] if not _OUR_HOOK.fullmatch(str(h.get("type")))]
    check_registered({key: value for key, value in parts.items() if key in READ_KEYS}, source)
    for key in parts.keys() - READ_KEYS:
        try:
            check_registered({key: parts[key]}, source)
        except InputError:
            cfg.pop(key)
    model = cfg.get("model")
    # A pair's student gets its preprocessor.
    for part in (model["architecture"], model.get("data_preprocessor")) if is_pair(model) else (model,):
        check_registered(part, source, built=True)


def _check_text(value: Any, source: str) -> None:
    """Refuse what mmengine acts on when it reads a config as Python: the exported file holds it as text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "_base_":
                raise InputError(
                    f"the config inside {source} has a `_base_`; give a config that you trust with --config"
                )
            _check_text(key, source)
            _check_text(inner, source)
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            _check_text(inner, source)
    elif isinstance(value, str) and "{{" in value:
        raise InputError(
            f"the config inside {source} has the text {value!r}, in which mmengine would replace {{{{...}}}}; give a "
            "config that you trust with --config"
        )


def check_target(path: str, source: str) -> None:
    """Raise InputError unless nothing is at ``path``, or an earlier export.

    Args:
        path: the file to write.
        source: the checkpoint that is exported.
    """
    if os.path.isdir(path) or not os.path.basename(path):
        raise InputError(f"--out '{path}' is a folder: name a file in it, e.g. student.pth")
    if not os.path.isfile(path):
        return
    if os.path.exists(source) and os.path.samefile(path, source):
        raise InputError(f"--out '{path}' is the checkpoint that is exported: name another file, e.g. student.pth")
    meta = {}
    with contextlib.suppress(CheckpointError):  # no checkpoint
        meta = meta_of(check_checkpoint_file(path))
    if _MARK not in meta:
        raise InputError(
            f"--out '{path}' exists and is no earlier export, so it is not replaced: name another file, e.g. "
            "student.pth, or remove it"
        )


def check_distilled(checkpoint: Mapping, source: str) -> None:
    """Raise CheckpointError, naming ``source``, unless a checkpoint is of a distillation."""
    if not is_distilled(weights_of(checkpoint)):
        raise CheckpointError(
            f"{source} is not of a distillation: none of its weights starts with '{STUDENT_PREFIX}'. A plain "
            "detector's checkpoint needs no export; give one that tools/train.py wrote for a pair"
        )


def export_student(checkpoint: Mapping, cfg: Config, source: str, half: bool = False) -> tuple[dict, nn.Module]:
    """Take the student out of a distilled checkpoint.

    Where ``EMAHook`` was on, mmengine stores the averaged weights as the checkpoint's; they are what is exported.

    Args:
        checkpoint: of a distillation.
        cfg: its config, or the student's own.
        source: the checkpoint's name, for messages.
        half: store floating-point weights in fp16, except those with a value beyond its range; a detector loads them
            into its fp32 weights.

    Returns:
        The new checkpoint, ``dict(meta=..., state_dict=...)``, and the student with those weights.

    Raises:
        CheckpointError: if it is not of a distillation, or does not fit the config.
    """
    check_distilled(checkpoint, source)
    weights = strip_student_prefix(weights_of(checkpoint))
    cfg = stock_config(cfg)
    if half:
        for key, value in weights.items():
            low = value.half() if value.is_floating_point() else value
            if not (low.isinf() & value.isfinite()).any():  # a running variance may be beyond fp16's range
                weights[key] = low
    init_default_scope(default_scope(cfg))
    student = MODELS.build(copy.deepcopy(cfg.model))
    load_weights(student, weights, source)
    meta = meta_of(checkpoint)
    kept = {k: meta[k] for k in ("epoch", "iter", "mmengine_version", "time") if k in meta}
    if dataset_meta := dataset_meta_of(checkpoint):
        kept["dataset_meta"] = dataset_meta
    return {"meta": {**kept, "cfg": cfg.pretty_text, _MARK: f"rekd_det {__version__}"}, "state_dict": weights}, student


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trainable or not."""
    return sum(p.numel() for p in module.parameters())


def stored_megabytes(state_dict: Mapping) -> float:
    """Size of a state dict's tensors in MB (10**6 bytes)."""
    return sum(v.numel() * v.element_size() for v in state_dict.values() if isinstance(v, torch.Tensor)) / 1e6
