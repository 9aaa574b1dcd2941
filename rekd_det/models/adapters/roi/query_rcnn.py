"""Adapter for Sparse R-CNN and QueryInst: rows are all proposals of every stage.

Proposal boxes and proposal features are learned in pairs: feature i was trained with box i of the same network. So the
teacher runs its own proposals through its own stages, and its predictions are matched to the student's, per image and
stage (see matching.py). Running it on the student's RoIs would pair each of them with the feature of another box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.structures.bbox import bbox2roi, bbox_xyxy_to_cxcywh
from torch import Tensor, nn

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.matching import box_cost, class_cost, match
from rekd_det.models.adapters.query.decoder_layers import DecoderLayersAdapter, check_same_layers
from rekd_det.models.utils.taps import TapSet, argument
from rekd_det.structures.aligned_logits import AlignedLogits


@dataclass
class _Stage:
    """In- and output of one stage of the student: RoIs ``(B * Q, 5)``, logits ``(B, Q, C)``, deltas ``(B, Q, 4)``."""

    rois: Tensor | None = None
    logits: Tensor | None = None
    deltas: Tensor | None = None


@register_adapter("SparseRoIHead")
class QueryRCNNAdapter(DecoderLayersAdapter):
    """Sparse R-CNN and QueryInst; mask branches are not used. Numbers of proposals may differ."""

    row_description = "proposals, a set per stage"

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        check_same_layers(type(student).__name__, student.num_stages, teacher.num_stages)
        self._stages = [_Stage() for _ in student.bbox_head]

    @staticmethod
    def classifier(head: Any) -> Any:
        return head.bbox_head[-1]

    def bind(self, student: nn.Module, teacher: nn.Module) -> None:
        self._proposals: Any = teacher.rpn_head

    def tap(self, taps: TapSet) -> None:
        self.clear()
        for stage, extractor, head in zip(
            self._stages, self.student.bbox_roi_extractor, self.student.bbox_head, strict=True
        ):
            _tap_stage(taps, stage, extractor, head)
            self.tap_targets(taps, head.loss_cls)  # called in the order of the stages

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        metas = [sample.metainfo for sample in data_samples]
        answers = self._teacher_stages(teacher_feats, data_samples, metas)
        logits = [s.logits for s in self._stages if s.logits is not None]
        mine = torch.stack([self._student_boxes(i, metas) for i in range(len(self._stages))])
        rows, boxes = (torch.stack(x) for x in zip(*answers, strict=True))
        cost = class_cost(torch.stack(logits).detach(), rows, self.meaning.activation)
        pairs = match(cost + box_cost(mine, boxes))
        return [
            self.entry(i, f"s{i}", x, y, p, float(self.student.stage_loss_weights[i]))
            for i, (x, y, p) in enumerate(zip(logits, rows, pairs, strict=True))
        ]

    def _teacher_stages(self, feats: Sequence[Tensor], samples: list, metas: list[dict]) -> list[tuple[Tensor, Tensor]]:
        """Per stage the teacher's logits ``(B, R, C)`` and refined boxes ``(B, R, 4)``, normalised."""
        proposals = self._proposals.predict(feats, samples)
        boxes = [p.bboxes for p in proposals]
        content = torch.stack([p.features for p in proposals])
        out = []
        for stage in range(self.teacher.num_stages):
            result = self.teacher._bbox_forward(stage, feats, bbox2roi(boxes), content, metas)
            boxes, content = result["detached_proposals"], result["object_feats"]
            out.append((result["cls_score"], _normalise(torch.stack(boxes), metas)))
        return out

    def _student_boxes(self, index: int, metas: list[dict]) -> Tensor:
        stage, coder = self._stages[index], self.student.bbox_head[index].bbox_coder
        assert stage.rois is not None and stage.deltas is not None
        rois = stage.rois[:, 1:].view(*stage.deltas.shape)
        boxes = [
            coder.decode(rois[i], stage.deltas[i].detach(), max_shape=meta["img_shape"]) for i, meta in enumerate(metas)
        ]
        return _normalise(torch.stack(boxes), metas)

    def entry(self, layer: int, *args, **kwargs) -> AlignedLogits:
        aligned = super().entry(layer, *args, **kwargs)
        if isinstance(aligned.avg_factor, Tensor):
            # The head divides by the number of positives even where there are none.
            aligned.avg_factor = aligned.avg_factor.clamp(min=1)
        return aligned

    def clear(self) -> None:
        super().clear()
        for stage in self._stages:
            stage.__init__()  # type: ignore[misc]

    def describe(self) -> str:
        return f"{super().describe()}, proposals matched by their predictions"


def _tap_stage(taps: TapSet, stage: _Stage, extractor: nn.Module, head: nn.Module) -> None:
    def on_extract(args: tuple, kwargs: dict, _: Tensor) -> None:
        stage.rois = argument(args, kwargs, 1, "rois")

    def on_head(args: tuple, kwargs: dict, output: tuple) -> None:
        stage.logits, stage.deltas = output[:2]

    taps.add(extractor, on_extract)
    taps.add(head, on_head)


def _normalise(boxes: Tensor, metas: list[dict]) -> Tensor:
    """Pixels (x1, y1, x2, y2) ``(B, R, 4)`` to (cx, cy, w, h) in units of the image's size."""
    sizes = boxes.new_tensor([m["img_shape"][1::-1] for m in metas])
    return bbox_xyxy_to_cxcywh(boxes / sizes.repeat(1, 2)[:, None])
