"""What the teacher says about given boxes: the probability of every category, not of its first one alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import PAAHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from rekd_det.models.adapters import RCNNAdapter
from rekd_det.models.adapters.base import classification_head
from rekd_det.models.adapters.roi.bbox_logits import bbox_logits

#: categories below it are not listed, which keeps a dense head's candidates few
MIN_SCORE = 1e-3
#: smallest IoU of a candidate that is used for a box
MIN_IOU = 0.5


class TeacherScores:
    """The teacher's scores of all categories for boxes of one image.

    An R-CNN teacher classifies exactly the boxes it is asked about (a cascade with its last stage). Of a dense teacher
    the scores are those of a candidate before NMS: the one with this very box, else the one with the largest product of
    score and IoU, where the IoU is at least ``MIN_IOU``.

    Args:
        model: a :class:`rekd_det.models.algorithms.ReKDDistill`.
        feats: the teacher's feature maps of the image, ``(1, c, h, w)`` each.
        sample: its ``DetDataSample``.
    """

    def __init__(self, model: Any, feats: Sequence[Tensor], sample: Any) -> None:
        self._adapter = model.distiller.adapter
        self._feats = feats
        self._head: Any = classification_head(model.teacher)
        self._found: tuple[Tensor, Tensor, Tensor] | None = None
        if _gives_candidates(self._head):
            self._found = _candidates(self._head, feats, sample.metainfo)

    def __call__(self, boxes: Tensor) -> Tensor | None:
        """Scores for boxes ``(n, 4)``, x1, y1, x2, y2 in pixels of the preprocessed image.

        Returns:
            ``(n, C)`` in [0, 1] (``(n, C + 1)`` with the background last for a softmax head); a row of zeros where no
            candidate is near. None for heads of which this can't be asked (queries; no candidates before NMS).
        """
        if isinstance(self._adapter, RCNNAdapter):
            return _classify(self._adapter, self._feats, boxes)
        return None if self._found is None else _pick(self._found, boxes, self._head.num_classes)


def _classify(adapter: RCNNAdapter, feats: Sequence[Tensor], boxes: Tensor) -> Tensor | None:
    heads = adapter.by_stage(adapter.teacher.bbox_head)
    logits = bbox_logits(heads[-1])
    if not len(boxes):
        return boxes.new_zeros(0, logits.num)
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    output = adapter.classify(len(heads) - 1, feats, rois, **adapter.teacher_context(feats))
    rows = logits.read(output)
    if rows.shape[1] != logits.num:  # CrowdDet: several objects per box
        return None
    return rows.sigmoid() if logits.meaning.activation == "sigmoid" else rows.softmax(1)


def _gives_candidates(head: Any) -> bool:
    """Whether a dense head can be asked for its boxes before NMS (CenterNet has no NMS, PAA votes in it)."""
    if not isinstance(head, BaseDenseHead) or isinstance(head, PAAHead):
        return False
    return {"cfg", "with_nms"} <= set(inspect.signature(head.predict_by_feat).parameters)


def _candidates(head: Any, feats: Sequence[Tensor], meta: dict) -> tuple[Tensor, Tensor, Tensor]:
    """All boxes ``(m, 4)`` before NMS with scores ``(m,)`` and labels ``(m,)``, one entry per location and category."""
    config = head.test_cfg.copy()
    config.update(score_thr=MIN_SCORE, nms_pre=-1)
    outputs = head(tuple(feats))
    maps = list(outputs[0])
    found = []
    # YOLOX gives each location's first category only: it is asked category by category.
    for category in range(head.num_classes) if isinstance(head, YOLOXHead) else [None]:
        asked = maps if category is None else [_only(m, category) for m in maps]
        found += head.predict_by_feat(
            asked, *outputs[1:], batch_img_metas=[meta], cfg=config, rescale=False, with_nms=False
        )
    boxes, scores, labels = ([r[key] for r in found] for key in ("bboxes", "scores", "labels"))
    return torch.cat(boxes), torch.cat(scores), torch.cat(labels)


def _only(scores: Tensor, category: int) -> Tensor:
    """Class logits ``(1, C, h, w)`` in which one category is left."""
    out = torch.full_like(scores, -1e4)
    out[:, category] = scores[:, category]
    return out


def _pick(candidates: tuple[Tensor, Tensor, Tensor], boxes: Tensor, num_classes: int) -> Tensor:
    found, scores, labels = candidates
    out = boxes.new_zeros(len(boxes), num_classes)
    if not len(found):
        return out
    for row, overlap in zip(out, bbox_overlaps(boxes, found), strict=True):
        value = torch.where(overlap >= MIN_IOU, overlap * scores, 0.0)
        if overlap.max() > 0.999:  # a detection of the teacher itself
            value = torch.where(overlap > 0.999, scores, 0.0)
        best = int(value.argmax())
        if value[best] > 0:
            # A location's categories share its box. Locations whose boxes were clipped to the same one do as well.
            same = (found - found[best]).abs().amax(1) < 1e-3
            row.scatter_reduce_(0, labels[same], scores[same], "amax")
    return out
