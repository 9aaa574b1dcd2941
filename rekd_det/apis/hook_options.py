"""Find mistyped options of hooks that would be noticed only when they are used, after an epoch or more."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from mmdet.engine.hooks import PipelineSwitchHook, YOLOXModeSwitchHook
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook
from mmrazor.engine.hooks import StopDistillHook
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from rekd_det.apis.class_names import dataset_class
from rekd_det.apis.metric_names import check_metrics, metric_names
from rekd_det.utils.config_types import type_class, type_name
from rekd_det.utils.errors import InputError, did_you_mean
from rekd_det.utils.options import check_known, options_of


def check_hooks(cfg: Config) -> None:
    """Check options of hooks that mmengine reads late.

    ``CheckpointHook`` hands what it does not know on to the first save, ``EMAHook`` to the averaged model. The metric
    of ``CheckpointHook`` and ``EarlyStoppingHook`` is looked for after the first validation; its name is checked where
    CocoMetric, VOCMetric or MMPretrain's Accuracy evaluates.

    Args:
        cfg: the config of a run.

    Raises:
        InputError: for a mistyped one, or an optimizer that can't be saved; it names the config key.
    """
    metrics = metric_names(cfg)
    train_cfg = cfg.get("train_cfg") or {}
    counts_iterations = _counts_iterations(train_cfg)
    for key, hook, kind in _hooks(cfg):
        if issubclass(kind, CheckpointHook):
            check_known(key, hook, options_of(kind) | {"priority"})
            check_metrics(f"{key}.save_best", hook.get("save_best"), metrics)
            if counts_iterations and hook.get("by_epoch", True) and hook.get("interval", -1) > 0:
                warnings.warn(
                    f"{key}.by_epoch is True, and this config's train_cfg counts iterations, so no checkpoint is saved "
                    f"before the end; set {key}.by_epoch=False, and its interval in iterations",
                    stacklevel=2,
                )
            if hook.get("save_optimizer", True):
                _check_optimizer(key, cfg.get("optim_wrapper"))
        elif kind is EMAHook:
            average = type_class(hook.get("ema_type", "ExponentialMovingAverage"), MODELS)
            if average is not None:
                check_known(key, hook, options_of(kind) | {"priority"} | options_of(average) - {"model"})
        elif issubclass(kind, EarlyStoppingHook):
            check_metrics(f"{key}.monitor", hook.get("monitor"), metrics)
        elif kind in (PipelineSwitchHook, YOLOXModeSwitchHook):
            _check_switchable(key, kind, cfg.get("train_dataloader") or {})
        elif issubclass(kind, StopDistillHook):
            _warn_of_no_stop(key, hook.get("stop_epoch"), train_cfg)


def check_clip_grad(cfg: Config) -> None:
    """Check the options of ``optim_wrapper.clip_grad``, which torch would refuse at the first step of the optimizer.

    Raises:
        InputError: for an unknown one.
    """
    options = (cfg.get("optim_wrapper") or {}).get("clip_grad") or {}
    clip = clip_grad_value_ if options.get("type") == "value" else clip_grad_norm_
    check_known("optim_wrapper.clip_grad", options, inspect.signature(clip).parameters.keys() - {"parameters"})


def _check_optimizer(key: str, wrapper: Any) -> None:
    """Raise InputError if an optimizer's state would have to be saved that lies in parts in several processes."""
    optimizer = wrapper.get("optimizer") if isinstance(wrapper, Mapping) else None
    kind = type_name(optimizer.get("type")) if isinstance(optimizer, Mapping) else ""
    if kind == "ZeroRedundancyOptimizer":
        raise InputError(
            f"optim_wrapper.optimizer.type='{kind}' is not supported: mmengine does not gather its state for the "
            f"checkpoint. Use the optimizer itself, or set {key}.save_optimizer=False, which gives up an exact resume"
        )


def _check_switchable(key: str, hook: type, loader: Mapping) -> None:
    """Raise InputError if a hook that changes the pipeline can't reach the data set whose pipeline it is."""
    dataset = loader.get("dataset")
    kind = dataset_class(dataset) if isinstance(dataset, Mapping) else None
    needed = "pipeline" if hook is PipelineSwitchHook else "update_skip_type_keys"
    if kind is not None and needed not in options_of(kind) | set(dir(kind)):
        raise InputError(
            f"{key}: {hook.__name__} changes train_dataloader.dataset, which is a {kind.__name__}: the data set inside "
            "it would keep its pipeline. Put the wrapper inside, train for more epochs instead of repeating, or write "
            "a hook that reaches the data sets inside"
        )


def _warn_of_no_stop(key: str, stop: Any, train_cfg: Mapping) -> None:
    """Warn of a ``StopDistillHook`` that never stops the distillation."""
    last = train_cfg.get("max_epochs")
    if _counts_iterations(train_cfg):
        warnings.warn(
            f"{key}: StopDistillHook counts epochs, and this config's train_cfg counts iterations, so the "
            "distillation never stops; remove the hook, or train by epochs (type='EpochBasedTrainLoop')",
            stacklevel=3,
        )
    elif isinstance(stop, int) and isinstance(last, int) and stop >= last:
        warnings.warn(
            f"{key}.stop_epoch={stop} is not before the end of the training, train_cfg.max_epochs={last}, so the "
            "distillation never stops",
            stacklevel=3,
        )


def _counts_iterations(train_cfg: Mapping) -> bool:
    return type_name(train_cfg.get("type")) == "IterBasedTrainLoop" or train_cfg.get("by_epoch") is False


def _hooks(cfg: Config) -> Iterator[tuple[str, Mapping, type]]:
    named, listed = cfg.get("default_hooks") or {}, cfg.get("custom_hooks") or []
    for name, hook in named.items():
        if isinstance(hook, Mapping) and "type" not in hook:
            raise InputError(f"default_hooks.{name} has no `type`{did_you_mean(name, named.keys() - {name})}")
    for hook in listed:
        if isinstance(hook, str):
            raise InputError(
                f"custom_hooks has the text {hook!r} in place of a dict: --cfg-options takes no list of dicts. Write a "
                "config that inherits this one, with custom_hooks = [*_base_.custom_hooks, dict(type=...)]"
            )
    default = {f"default_hooks.{name}": hook for name, hook in named.items()}
    custom = {f"custom_hooks.{index}": hook for index, hook in enumerate(listed)}
    for key, hook in {**default, **custom}.items():
        kind = type_class(hook.get("type"), HOOKS) if isinstance(hook, Mapping) else None
        if kind is not None:
            yield key, hook, kind
