"""The teacher's AP or accuracy on some test images, before a training."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
import tempfile

from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from rekd_det.analysis.pair_check.findings import Findings
from rekd_det.analysis.utils.pair import choose
from rekd_det.apis.command_line import build_runner
from rekd_det.apis.preflight import check_data
from rekd_det.engine.categories import named_categories
from rekd_det.engine.hooks.pair_check_hook import check_categories
from rekd_det.utils.checkpoint import load_checkpoint_file
from rekd_det.utils.checkpoint_content import classes_of
from rekd_det.utils.config_types import default_scope
from rekd_det.utils.dataset_configs import plain_datasets
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import classifies_images, teacher_config

#: below this AP or PQ a teacher has learned nothing of the data set, or something is wrong
_LEAST_AP = 0.02
#: the same of a classifier's top-1 accuracy, in parts of what guessing gives; with few classes 0.1 more than that
_LEAST_OVER_CHANCE = 3
#: how the name of a metric that judges a detector ends, and its value at best
_DETECTOR_SCORES = {"mAP": 1.0, "_AP": 1.0, "/PQ": 100.0}


def add_teacher_score(cfg: Config, limit: int, found: Findings) -> None:
    """Evaluate the teacher as ``tools/test.py --teacher`` would, and report a score near guessing as a mistake.

    Args:
        cfg: config of the pair.
        limit: number of images: a detector's first ones, of a classifier's sorted data set evenly spread ones.
        found: gets the scores.

    Raises:
        InputError: if there are no test images, or the test set joins several data sets.
    """
    cfg = teacher_config(cfg)
    check_data(cfg, ("test",))
    (_, dataset), *others = plain_datasets(cfg.test_dataloader.dataset)
    if others:
        raise InputError(f"--limit needs one test set, but test_dataloader.dataset joins {1 + len(others)} of them")
    dataset.indices = _spread(cfg, dataset, limit) if classifies_images(cfg) else limit
    with tempfile.TemporaryDirectory() as folder:
        cfg.update(work_dir=folder, launcher="none", resume=False)
        print(f"evaluating the teacher on {limit} images ...", file=sys.stderr)
        with contextlib.redirect_stdout(io.StringIO()):
            runner = build_runner(cfg)
            MMLogger.get_current_instance().setLevel("ERROR")
            count = _score_tested_images_only(runner)
            metrics = runner.test()
            classes = runner.test_dataloader.dataset.metainfo.get("classes") or ()
            trained = classes_of(load_checkpoint_file(cfg.load_from))
            for tested in named_categories(runner.test_loop.dataloader):
                try:
                    check_categories(tuple(tested), trained or tuple(tested))
                except InputError as error:
                    found.mistakes.append(str(error))
    found.section(f"Teacher on {'the first ' * (not classifies_images(cfg))}{count} test images")
    for name, value in metrics.items():
        found.lines.append(f"{name:<28} {value:>10.4f}")
    if classifies_images(cfg):
        name, score = "top-1 accuracy", metrics.get("accuracy/top1", 100.0) / 100
        guess = 1 / (len(classes) or getattr(runner.model.head, "num_classes", None) or 1000)
        least = min(_LEAST_OVER_CHANCE * guess, guess + 0.1)
    else:
        least = _LEAST_AP
        scores = [
            (value / best, name)
            for name, value in metrics.items()
            for end, best in _DETECTOR_SCORES.items()
            if name.endswith(end)
        ]
        if not scores:
            found.notes.append("none of the teacher's metrics is known here, so they are not judged")
            return
        score, name = max(scores)
    if score < least:
        found.mistakes.append(
            f"the teacher's {name} on {count} images is {score:.3f}: its weights, its normalisation or the order of "
            "its categories do not fit this data set. Check model.teacher, model.teacher_ckpt and metainfo"
        )


def _spread(cfg: Config, dataset: ConfigDict, limit: int) -> list[int]:
    """Evenly spread over a classifier's data set, which is sorted by class."""
    with DefaultScope.overwrite_default_scope(default_scope(cfg)):
        images = DATASETS.build(copy.deepcopy(dataset))
    return list(choose(images, limit).indices)


def _score_tested_images_only(runner: Runner) -> int:
    """Keep mmdet's COCO metrics from counting the other images of the annotation file as missed; how many are left."""
    tested = runner.test_loop.dataloader.dataset
    for metric in runner.test_loop.evaluator.metrics:
        if isinstance(metric, CocoMetric):
            metric.img_ids = [tested.get_data_info(i)["img_id"] for i in range(len(tested))]
    return len(tested)
