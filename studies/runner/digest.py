"""What names a run: a digest of all that decides its result, and of nothing else.

It is the same on every machine and wherever configs and data lie, so that a result that was committed counts elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.config_types import type_name
from rekd_det.utils.pair_config import resolve_model_config

#: keys of a config that decide what is trained and what its test gives
_DECISIVE = (
    "activation_checkpointing",
    "auto_scale_lr",
    "compile",
    "custom_hooks",
    "data_preprocessor",
    "default_scope",
    "efficient_conv_bn_eval",
    "load_from",
    "model",
    "optim_wrapper",
    "param_scheduler",
    "randomness",
    "sync_bn",
    "test_cfg",
    "test_dataloader",
    "test_evaluator",
    "train_cfg",
    "train_dataloader",
)
#: keys anywhere in these that say how the work is done, not what comes out
_INDIFFERENT = (
    "backend_args",
    "data_root",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "val_begin",
    "val_interval",
)
#: keys anywhere in these whose value is the path or the URL of a checkpoint
_CHECKPOINTS = ("checkpoint", "load_from", "teacher_ckpt")
#: hooks that every Runner has, those first without which a training would be another
_DEFAULT_HOOKS = ("runtime_info", "sampler_seed", "param_scheduler", "timer", "logger", "checkpoint", "visualization")
#: hooks that only look on
_ONLOOKERS = ("DistillLogHook", "PairCheckHook", "StepSeedHook")


def digest_of(*parts: Any) -> str:
    """SHA-256 over the JSON of its arguments."""
    text = json.dumps(parts, sort_keys=True, default=lambda v: getattr(v, "__qualname__", None) or repr(v))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    return _sha256(str(path), os.stat(path).st_mtime_ns)


@functools.cache
def _sha256(path: str, changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def decisive_settings(config: Config, without_teacher: bool) -> dict[str, Any]:
    """A config as plain data, without what makes no difference to the result.

    Paths make no difference: data sets lose their roots, checkpoints keep their file's name and, where the file is
    there, its content, and a teacher that is the path of a config file is replaced by what the file says. Nor does
    the registry that a type's name is prefixed with.

    Args:
        config: of one training.
        without_teacher: leave out the pair's own teacher, for the study has another.
    """
    settings = {key: config[key] for key in _DECISIVE if config.get(key) is not None}
    model = dict(settings["model"])
    for key in ("teacher", "teacher_ckpt") if without_teacher else ():
        model.pop(key, None)
    for key in ("architecture", "teacher"):
        part = {"cfg_path": model[key]} if isinstance(model.get(key), str) else model.get(key)
        if part is not None and "type" not in part and "::" not in part.get("cfg_path", "::"):
            model[key] = resolve_model_config(part, f"model.{key}")
    settings["model"] = model
    hooks = {k: h for k, h in (config.get("default_hooks") or {}).items() if k not in _DEFAULT_HOOKS}
    hooks |= {k: None for k in _DEFAULT_HOOKS[:3] if (config.get("default_hooks") or {}).get(k, k) is None}
    if hooks:
        settings["default_hooks"] = hooks
    if "custom_hooks" in settings:
        settings["custom_hooks"] = [h for h in settings["custom_hooks"] if _name(h) not in _ONLOOKERS]
    return plain(settings, sorted(data_roots(settings), key=len, reverse=True))


def data_roots(config: Any) -> set[str]:
    """Every ``data_root`` in mappings and lists; mmengine's Config is not a mapping."""
    return {root for node in config_nodes(config) if isinstance(root := node.get("data_root"), str) and root}


def _name(hook: Any) -> str:
    return type_name(hook.get("type") if isinstance(hook, Mapping) else type(hook))


def plain(value: Any, roots: Sequence[str] = (), key: str = "") -> Any:
    """A part of a config as plain data without paths, its checkpoints by their content; see :func:`decisive_settings`.

    Args:
        value: the part.
        roots: folders that paths lose at their beginning, the longest first.
        key: that the part has in its config.
    """
    if isinstance(value, Mapping):
        return {k: plain(v, roots, k) for k, v in value.items() if k not in _INDIFFERENT}
    if isinstance(value, list | tuple):
        return [plain(v, roots, key) for v in value]
    if isinstance(value, str):
        if key in _CHECKPOINTS:
            name = posixpath.basename(value)
            return [name, digest_of_file(value)] if os.path.isfile(value) else name
        if key == "type":
            return value.rpartition(".")[2]
        for root in roots:
            if value.startswith(root):
                return value.removeprefix(root).lstrip("/")
    return value
