"""Find what an evaluator can't compute, which would be noticed only after an epoch and its validation."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmdet.evaluation import CocoMetric, VOCMetric
from mmdet.registry import METRICS
from mmengine.config import Config

from rekd_det.apis.mask_prediction import predicts_masks
from rekd_det.evaluation import FasterCocoMetric
from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.config_types import type_class, type_name
from rekd_det.utils.dataset_configs import plain_datasets
from rekd_det.utils.errors import InputError, closest_or_all
from rekd_det.utils.options import check_known, options_of
from rekd_det.utils.pair_config import classifies_images, trained_model

#: the names that ``metric_items`` may list, those of a precision first
COCO_ITEMS = (
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000"),
)


def check_evaluators(cfg: Config, run: str) -> None:
    """Check the options of evaluators, some of which are read late.

    Args:
        cfg: the config of a run.
        run: ``'val'`` or ``'test'``, what is going to run. Of the other one's evaluator only the names of the options
            are checked. One that the config does not use is skipped.

    Raises:
        InputError: for one that can't be computed; it names the config key.
    """
    model_key, model = trained_model(cfg.get("model"))
    for split in ("val", "test"):
        if cfg.get(f"{split}_cfg") is None:
            continue
        if split == run == "val" and (cfg.get("train_cfg") or {}).get("val_interval") == 0:
            raise InputError(
                "train_cfg.val_interval=0 is no interval: give a number of epochs or iterations >= 1, or set val_cfg, "
                "val_dataloader and val_evaluator to None for a training without validation"
            )
        for key, evaluator in evaluators_of(cfg, split):
            _check_names(key, evaluator)
            if split != run:
                continue
            if top_k := accuracy_top_k(cfg, evaluator):
                _check_top_k(key, evaluator, max(top_k), model_key, model)
            if evaluator.get("format_only"):
                continue
            if is_coco(evaluator) or type_class(evaluator.get("type"), METRICS) is VOCMetric:
                _check_ground_truth(key, evaluator, split, cfg)
            if not is_coco(evaluator):
                continue
            for item in evaluator.get("metric_items") or []:
                if item not in COCO_ITEMS:
                    listed = closest_or_all(str(item), COCO_ITEMS)
                    raise InputError(f"{key}.metric_items: CocoMetric has no item {item!r}{listed}")
            if "segm" in (evaluator.get("metric") or "") and predicts_masks(model) is False:
                raise InputError(
                    f"{key}.metric: 'segm' evaluates masks, and {model_key} ({type_name(model['type'])}) predicts "
                    f"none: set {key}.metric=bbox"
                )


def evaluators_of(cfg: Config, split: str) -> Iterator[tuple[str, Mapping]]:
    """The config keys and configs of the evaluators of ``'val'`` or ``'test'``."""
    key, evaluators = f"{split}_evaluator", cfg.get(f"{split}_evaluator") or []
    if isinstance(evaluators, Mapping):
        yield key, evaluators
        return
    for index, evaluator in enumerate(evaluators):
        if isinstance(evaluator, Mapping):
            yield f"{key}.{index}", evaluator


def is_coco(evaluator: Mapping) -> bool:
    """Whether an evaluator is mmdet's ``CocoMetric`` or the faster one; its subclasses have ways of their own."""
    return type_class(evaluator.get("type"), METRICS) in (CocoMetric, FasterCocoMetric)


def _check_names(key: str, evaluator: Mapping) -> None:
    """Raise InputError for an option that a metric has not; of one with ``**kwargs`` they are not all known."""
    kind = type_class(evaluator.get("type"), METRICS)
    if kind is None or (not is_coco(evaluator) and inspect.getfullargspec(kind).varkw):
        return
    check_known(f"{key}: {kind.__name__}", evaluator, options_of(kind))


def _check_ground_truth(key: str, evaluator: Mapping, split: str, cfg: Config) -> None:
    """Raise InputError if an evaluator has neither a file of annotations nor those that a pipeline loads and packs."""
    if evaluator.get("ann_file"):
        return
    where = f"{split}_dataloader.dataset"
    for name, dataset in plain_datasets((cfg.get(f"{split}_dataloader") or {}).get("dataset"), where):
        steps = {type_name(node.get("type")): node for node in config_nodes(dataset.get("pipeline"))}
        if steps and not any("Annotations" in step for step in steps):
            raise InputError(
                f"{key}.ann_file is not set, and {name}.pipeline loads no annotations, so there is nothing to compare "
                f"with: {f'set {key}.ann_file' if is_coco(evaluator) else 'add LoadAnnotations'}"
            )
        packing = steps.get("PackDetInputs")
        if is_coco(evaluator) and packing is not None and "instances" not in packing.get("meta_keys", ()):
            raise InputError(
                f"{key}.ann_file is not set, and {name}.pipeline does not pack the annotations: set {key}.ann_file, or "
                "add 'instances' to meta_keys of PackDetInputs"
            )


def accuracy_top_k(cfg: Config, evaluator: Mapping) -> tuple[int, ...]:
    """The K of MMPretrain's ``Accuracy``, 1 if it names none; empty for another evaluator."""
    if not classifies_images(cfg) or type_name(evaluator.get("type")) != "Accuracy":
        return ()
    top_k = evaluator.get("topk", 1)
    return (top_k,) if isinstance(top_k, int) else tuple(top_k)


def _check_top_k(key: str, evaluator: Mapping, most: int, model_key: str, model: Any) -> None:
    """Raise InputError if MMPretrain's ``Accuracy`` looks at more classes than the classifier has."""
    head = model.get("head") if isinstance(model, Mapping) else None
    classes = head.get("num_classes") if isinstance(head, Mapping) else None
    if isinstance(classes, int) and most > classes:
        raise InputError(
            f"{key}.topk={evaluator.get('topk', 1)} looks at {most} classes, but {model_key}.head has "
            f"num_classes={classes}: give none larger"
        )
