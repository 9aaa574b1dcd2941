"""Keys of a pair's config that would be ignored, or would fail only after the teacher was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from rekd_det.models.algorithms.rekd_distill import ReKDDistill
from rekd_det.utils.config_types import type_name
from rekd_det.utils.errors import InputError, did_you_mean
from rekd_det.utils.options import options_of
from rekd_det.utils.pair_config import check_preprocessors, is_pair, resolve_model_config

#: mmengine's strategies that shard or wrap a model in their own way
_SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ColossalAIStrategy")


def check_pair_keys(cfg: Config) -> None:
    """Check what a pair's config says outside ``model``. Configs of other models pass.

    Raises:
        InputError: For a key that does not go with a distillation, or two data preprocessors that differ.
    """
    model = cfg.get("model")
    if not is_pair(model):
        return
    _check_one_preprocessor(cfg)
    if not _is_ours(model):
        return
    for key in ("val_cfg", "test_cfg"):
        if type_name((cfg.get(key) or {}).get("type")).endswith("DistillValLoop"):
            raise InputError(
                f"{key}.type: MMRazor's loop tests the teacher along with the student, by the student's preprocessor, "
                "and leaves EMAHook's weights exchanged. Use ValLoop and TestLoop; tools/test.py --teacher tests the "
                "teacher"
            )
    for key in ("activation_checkpointing", "efficient_conv_bn_eval"):
        names = cfg.get(key) or []
        for name in [names] if isinstance(names, str) else names:
            if not str(name).startswith("architecture"):
                raise InputError(f"{key}: a pair has no module '{name}'; the student's is 'architecture.{name}'")
    strategy = type_name((cfg.get("strategy") or {}).get("type"))
    if strategy in _SHARDING and type_name(cfg.get("runner_type")) == "FlexibleRunner":
        raise InputError(
            f"strategy.type='{strategy}' is not supported: a distillation calls single layers of both heads, past the "
            "wrapper that would gather their shards. Leave out `strategy`, and keep runner_type='rekd_det.ReKDRunner'"
        )


def check_pair_options(model: Any, options: Mapping[str, Any]) -> None:
    """Raise InputError if an option sets a key of ``model`` that ReKDDistill has not: a test would not see it."""
    if not is_pair(model) or not _is_ours(model):
        return
    known = options_of(ReKDDistill) | {"type"}
    for option in options:
        first, _, key = option.partition(".")
        name = key.partition(".")[0]
        if first != "model" or not key or name in known:
            continue
        # A key of the student's is no typo, however similar one of the distillation's is.
        close = "" if name in model["architecture"] else did_you_mean(name, known)
        raise InputError(
            f"--cfg-options {option}: the model is a distillation, which has no such option{close or '.'} Options of "
            "the student are under model.architecture, those of the teacher under model.teacher.cfg_options"
        )


def _is_ours(model: Mapping) -> bool:
    return type_name(model.get("type")) == ReKDDistill.__name__


def _check_one_preprocessor(cfg: Config) -> None:
    """Raise InputError if a pair has a data preprocessor beside its student's own that says something else."""
    student = resolve_model_config(cfg.model.architecture, "model.architecture")
    check_preprocessors(cfg.get("data_preprocessor"), student)
    outer = cfg.model.get("data_preprocessor")
    if outer is not None and "type" not in outer:  # one with a type is MMRazor's way, for training and test
        check_preprocessors(outer, student)
