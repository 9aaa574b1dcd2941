"""Adapter for Sparse R-CNN and QueryInst: rows are all proposals of every stage.

Proposal boxes and proposal features are learned in pairs: feature i was trained with box i of the same network. So the
teacher runs its own proposals through its own stages, and its predictions are matched to the student's, per image and
stage (see matching.py). Running it on the student's RoIs would pair each of them with the feature of another box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures.bbox import bbox2roi, bbox_xyxy_to_cxcywh
from torch import Tensor, nn

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.matching import box_cost, class_cost, match
from rekd_det.models.adapters.query.decoder_layers import DecoderLayersAdapter, check_same_layers
from rekd_det.models.utils.taps import TapSet
from rekd_det.structures.aligned_logits import AlignedLogits


@register_adapter("SparseRoIHead")
class QueryRCNNAdapter(DecoderLayersAdapter):
    """Sparse R-CNN and QueryInst; mask branches are not used. Numbers of proposals may differ."""

    row_description = "proposals, a set per stage"

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        check_same_layers(type(student).__name__, student.num_stages, teacher.num_stages)
        #: of the student, per stage: logits ``(B, Q, C)``, and refined boxes ``(Q, 4)`` of each image in pixels
        self._stages: list[tuple[Tensor, list[Tensor]]] = []

    @staticmethod
    def classifier(head: Any) -> Any:
        return head.bbox_head[-1]

    def bind(self, student: nn.Module, teacher: nn.Module) -> None:
        self._proposals: Any = teacher.rpn_head

    def tap(self, taps: TapSet) -> None:
        self.clear()

        def on_stage(args: tuple, kwargs: dict, result: dict) -> None:
            self._stages.append((result["cls_score"], result["detached_proposals"]))

        taps.add_method(self.student, "_bbox_forward", on_stage)
        for head in self.student.bbox_head:
            self.tap_targets(taps, head.loss_cls)  # called in the order of the stages

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        logits = [x for x, _ in self._stages]
        answers = self._teacher_stages(teacher_feats, data_samples)
        rows = torch.stack([x for x, _ in answers])
        mine, others = (
            _normalise(torch.stack([torch.stack(boxes) for _, boxes in stages]), data_samples)
            for stages in (self._stages, answers)
        )
        cost = class_cost(torch.stack(logits).detach(), rows, self.meaning.activation)
        pairs = match(cost + box_cost(mine, others))
        return [
            self.entry(i, f"s{i}", x, y, p, float(self.student.stage_loss_weights[i]))
            for i, (x, y, p) in enumerate(zip(logits, rows, pairs, strict=True))
        ]

    def _teacher_stages(self, feats: Sequence[Tensor], samples: list) -> list[tuple[Tensor, list[Tensor]]]:
        """Per stage the teacher's logits ``(B, R, C)``, and refined boxes ``(R, 4)`` of each image in pixels."""
        proposals = self._proposals.predict(feats, samples)
        boxes = [p.bboxes for p in proposals]
        content = torch.stack([p.features for p in proposals])
        metas = [sample.metainfo for sample in samples]
        out = []
        for stage in range(self.teacher.num_stages):
            result = self.teacher._bbox_forward(stage, feats, bbox2roi(boxes), content, metas)
            boxes, content = result["detached_proposals"], result["object_feats"]
            out.append((result["cls_score"], boxes))
        return out

    def entry(self, layer: int, *args, **kwargs) -> AlignedLogits:
        aligned = super().entry(layer, *args, **kwargs)
        if isinstance(aligned.avg_factor, Tensor):
            # The head divides by the number of positives even where there are none.
            aligned.avg_factor = aligned.avg_factor.clamp(min=1)
        return aligned

    def clear(self) -> None:
        super().clear()
        self._stages = []

    def describe(self) -> str:
        return f"{super().describe()}, proposals matched by their predictions"


def _normalise(boxes: Tensor, samples: list) -> Tensor:
    """Pixels (x1, y1, x2, y2) ``(S, B, R, 4)`` to (cx, cy, w, h) in units of the image's size."""
    sizes = boxes.new_tensor([s.img_shape[1::-1] for s in samples])
    return bbox_xyxy_to_cxcywh(boxes / sizes.repeat(1, 2)[:, None])
