"""What a study measures: AP of detectors' boxes and masks, and the accuracy of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mmengine.config import Config

from rekd_det.analysis.runs.runs import SIZES
from rekd_det.apis.evaluator_options import evaluators_of, is_coco


class Task(NamedTuple):
    """One thing that models are tested in.

    Attributes:
        name: of its figure's file.
        title: of its section.
        metrics: names in the results, the main one first; all are shares of 1.
    """

    name: str
    title: str
    metrics: tuple[str, ...]


TASKS = (
    Task("bbox", "AP of boxes", tuple(f"bbox_{size}" for size in SIZES)),
    Task("segm", "AP of masks", tuple(f"segm_{size}" for size in SIZES)),
    Task("image", "Top-1 accuracy", ("top1", "top5")),
)
#: all names, in their order in the tables
METRICS = tuple(metric for task in TASKS for metric in task.metrics)
MAIN = tuple(task.metrics[0] for task in TASKS)


def read_metrics(found: Mapping[str, float], cfg: Config) -> dict[str, float]:
    """The metrics of a test, from what its evaluators wrote.

    Args:
        found: by names as in the log: 'coco/bbox_mAP' in [0, 1], 'accuracy/top1' in per cent.
        cfg: the run's config.
    """
    metrics = {k.rpartition("/")[2]: v for k, v in found.items() if "mAP" in k}
    metrics |= {k.rpartition("/")[2]: v / 100 for k, v in found.items() if k.startswith("accuracy/")}
    # mmdet's COCO metric writes nothing if nothing was detected at all.
    kinds = [evaluator.get("metric", "bbox") for _, evaluator in evaluators_of(cfg, "test") if is_coco(evaluator)]
    return metrics or {f"{kind}_mAP": 0.0 for some in kinds for kind in ([some] if isinstance(some, str) else some)}
