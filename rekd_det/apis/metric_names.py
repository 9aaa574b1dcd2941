"""The names of the metrics that a validation gives, for hooks that look for one of them after an epoch or more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.evaluation import VOCMetric
from mmdet.registry import METRICS
from mmengine.config import Config

from rekd_det.apis.evaluator_options import COCO_ITEMS, accuracy_top_k, evaluators_of, is_coco
from rekd_det.utils.config_types import type_class
from rekd_det.utils.errors import InputError, closest_or_all


def metric_names(cfg: Config) -> set[str] | None:
    """The names of the validation's metrics; None where they are not known beforehand."""
    names: set[str] = set()
    for _, evaluator in evaluators_of(cfg, "val"):
        found = _names_of(cfg, evaluator)
        if found is None:
            return None
        default, metrics = found
        names |= {f"{evaluator.get('prefix') or default}/{metric}" for metric in metrics}
    return names or None


def _names_of(cfg: Config, evaluator: Mapping) -> tuple[str, list[str]] | None:
    """The default prefix of an evaluator, and its metrics; None where they are not known beforehand."""
    if type_class(evaluator.get("type"), METRICS) is VOCMetric and evaluator.get("metric", "mAP") == "mAP":
        thresholds = evaluator.get("iou_thrs", 0.5)
        thresholds = [thresholds] if isinstance(thresholds, float) else thresholds
        return "pascal_voc", ["mAP", *(f"AP{int(iou * 100):02d}" for iou in thresholds)]
    top_k = accuracy_top_k(cfg, evaluator)
    if top_k and "thrs" not in evaluator:
        return "accuracy", [f"top{k}" for k in top_k]
    if not is_coco(evaluator) or evaluator.get("metric_items"):
        return None
    kinds = evaluator.get("metric", "bbox")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not {"bbox", "segm"} >= set(kinds):
        return None
    return "coco", [f"{kind}_{item}" for kind in kinds for item in COCO_ITEMS[:6]]


def check_metrics(key: str, named: Any, known: set[str] | None) -> None:
    """Raise InputError if a hook looks for a metric that the validation does not give.

    Args:
        key: the config key of the hook's option.
        named: its value, a name or a list of names.
        known: see :func:`metric_names`.
    """
    for name in [named] if isinstance(named, str) else named or []:
        # CocoMetric(classwise=True) gives '<category>_precision' in addition.
        if known and name != "auto" and not name.endswith("_precision") and name not in known:
            raise InputError(f"{key}: the validation gives no metric '{name}'{closest_or_all(name, known)}")
