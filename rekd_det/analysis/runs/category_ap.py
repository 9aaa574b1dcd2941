"""AP by category from a file of detections, where a log has none."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rekd_det.utils.errors import InputError


def recompute(results: Path, ann_file: str, task: str) -> dict[str, float]:
    """AP (IoU 0.5 to 0.95) by category name.

    Args:
        results: COCO's result format, as ``outfile_prefix`` of mmdet's CocoMetric writes it (``PREFIX.bbox.json``).
        ann_file: the annotations it was evaluated against.
        task: 'bbox' or 'segm'.

    Returns:
        One entry per category with objects in the annotations.

    Raises:
        InputError: if the two do not fit together.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints tables
        try:
            truth = COCO(ann_file)
            found = truth.loadRes(str(results))
        except (OSError, ValueError, AssertionError, KeyError, IndexError) as error:
            raise InputError(f"'{results}' can't be evaluated against '{ann_file}': {error}") from error
        evaluation = COCOeval(truth, found, task)
        evaluation.params.maxDets = [100, 300, 1000]  # as mmdet's CocoMetric, whose AP by category counts the last
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, category
    names = [truth.cats[c]["name"] for c in evaluation.params.catIds]
    values = {n: precision[:, :, i] for i, n in enumerate(names)}
    return {n: float(np.mean(v[v > -1])) for n, v in values.items() if (v > -1).any()}


def find_results(folder: Path, task: str) -> Path | None:
    """The newest ``*.bbox.json`` (``*.segm.json``) in a work dir, or None."""
    files = list(folder.rglob(f"*.{task}.json"))
    return max(files, key=lambda f: f.stat().st_mtime) if files else None
