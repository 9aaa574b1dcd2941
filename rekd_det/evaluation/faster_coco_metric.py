"""FasterCocoMetric: mmdet's CocoMetric computed by the C++ of ``faster-coco-eval`` (``pip install rekd_det[eval]``)."""

from __future__ import annotations

import importlib.util
from types import FunctionType
from typing import Any

import numpy as np
from mmdet.evaluation.metrics import coco_metric

from rekd_det.utils.errors import InputError

_INSTALLED = importlib.util.find_spec("faster_coco_eval") is not None
_CLASSES: dict[str, Any] = {}
if _INSTALLED:
    from faster_coco_eval import COCO, COCOeval_faster

    class _FasterEval(COCOeval_faster):
        """The evaluation with the first AP as pycocotools takes it: over at most 100 detections per image."""

        def summarize(self) -> None:
            super().summarize()
            self.stats[0] = self._summarize(1, maxDets=100) if 100 in self.params.maxDets else -1.0

    class _FasterCOCO(COCO):
        def loadRes(self, predictions: Any) -> Any:
            if isinstance(predictions, list) and not predictions:
                raise IndexError("no predictions")  # as in pycocotools; CocoMetric has a message for it
            return super().loadRes(predictions)

    _CLASSES = dict(COCO=_FasterCOCO, COCOeval=_FasterEval)


def _with_classes(method: Any) -> FunctionType:
    """A copy of a method of CocoMetric that uses other classes for the names ``COCO`` and ``COCOeval``."""
    names = {**vars(coco_metric), **_CLASSES}
    twin = FunctionType(method.__code__, names, method.__name__, method.__defaults__, method.__closure__)
    twin.__kwdefaults__ = method.__kwdefaults__
    return twin


class FasterCocoMetric(coco_metric.CocoMetric):
    """mmdet's ``CocoMetric`` with the same options and results, in a fraction of the time.

    A config chooses it with ``val_evaluator.type='FasterCocoMetric'``, and a command line with ``--cfg-options``.

    Args:
        *args, **kwargs: of ``CocoMetric``: ``ann_file``, ``metric`` ('bbox', 'segm', 'proposal'), ``classwise``,
            ``outfile_prefix`` and others. ``use_mp_eval`` is not supported.

    Raises:
        InputError: if ``faster-coco-eval`` is not installed, or ``use_mp_eval`` is set.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not _INSTALLED:
            raise InputError(
                "FasterCocoMetric needs the package faster-coco-eval, which is not installed: run `pip install "
                "rekd_det[eval]` (or `pip install faster-coco-eval`), or use type='CocoMetric'"
            )
        if kwargs.get("use_mp_eval"):
            raise InputError(
                "FasterCocoMetric does not support use_mp_eval=True, because one process is fast enough; remove it"
            )
        _with_classes(coco_metric.CocoMetric.__init__)(self, *args, **kwargs)
        # The evaluation compares it with a number, which needs an array from NumPy 2.1 on.
        self.iou_thrs: np.ndarray = np.atleast_1d(self.iou_thrs)  # type: ignore[has-type]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """As CocoMetric's."""
        return _with_classes(coco_metric.CocoMetric.compute_metrics)(self, results)
