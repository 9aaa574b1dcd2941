"""Find what an evaluator can't compute, which would be noticed only after an epoch and its validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.config import Config

from rekd_det.apis.mask_prediction import predicts_masks
from rekd_det.evaluation import FasterCocoMetric
from rekd_det.utils.config_types import type_class, type_name
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import trained_model


class EvaluatorError(InputError):
    """An evaluator that would fail on the model's predictions, or on its own options."""


def check_evaluators(cfg: Config, splits: Iterable[str]) -> None:
    """Check options of evaluators that are read late.

    Args:
        cfg: the config of a run.
        splits: of ``'val'``, ``'test'``; one that the config does not use is skipped.

    Raises:
        EvaluatorError: for one that can't be computed; it names the config key.
    """
    model_key, model = trained_model(cfg.get("model"))
    for split in splits:
        if cfg.get(f"{split}_cfg") is None:
            continue
        for key, evaluator in evaluators_of(cfg, split):
            if not is_coco(evaluator) or evaluator.get("format_only"):
                continue
            if "segm" in (evaluator.get("metric") or "") and predicts_masks(model) is False:
                raise EvaluatorError(
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
