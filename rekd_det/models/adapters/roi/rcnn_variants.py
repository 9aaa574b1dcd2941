"""R-CNN heads that need more than the plain adapter (SCNet, TridentNet, CrowdDet), and those that do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models.backbones.trident_resnet import TridentBottleneck, TridentConv
from mmdet.models.roi_heads.bbox_heads import MultiInstanceBBoxHead
from torch import Tensor, nn

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.roi.bbox_logits import bbox_logits
from rekd_det.models.adapters.roi.rcnn import CascadeAdapter, RCNNAdapter
from rekd_det.structures.aligned_logits import AlignedLogits

# Their box branch is Faster R-CNN's. PISA's weights reach the loss as label weights, and the calls by which it ranks
# candidates are recognised by their `reduction_override`.
register_adapter("GridRoIHead", "PISARoIHead", "PointRendRoIHead", "MaskScoringRoIHead")(RCNNAdapter)


@register_adapter("SCNetRoIHead")
class SCNetAdapter(CascadeAdapter):
    """SCNet: the teacher's box features are fused with its own semantic and global-context features."""

    def teacher_context(self, feats: Sequence[Tensor]) -> dict:
        context = {}
        if self.teacher.with_semantic:
            context["semantic_feat"] = self.teacher.semantic_head(feats)[1]
        if self.teacher.with_glbctx:
            context["glbctx_feat"] = self.teacher.glbctx_head(feats)[1]
        return context


@register_adapter("TridentRoIHead")
class TridentAdapter(RCNNAdapter):
    """TridentNet: a student in training has one pseudo-image per branch and image, so the teacher needs as many."""

    row_description = "the student's sampled RoIs of all branches"

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        if student.num_branch != teacher.num_branch:
            raise ValueError(
                f"TridentRoIHead: the student has num_branch={student.num_branch}, the teacher {teacher.num_branch}: "
                "each branch of the student needs its counterpart"
            )

    def extract_feat(self, teacher: Any, inputs: Tensor) -> Sequence[Tensor]:
        with _all_branches(teacher.backbone):
            return teacher.extract_feat(inputs)


@contextmanager
def _all_branches(backbone: nn.Module) -> Iterator[None]:
    """Let the trident blocks, and nothing inside them, take themselves to be in training: they then run all branches.

    Norms and dropout stay in eval mode.
    """
    blocks = [m for m in backbone.modules() if isinstance(m, (TridentBottleneck, TridentConv))]
    for block in blocks:
        block.training = True
    try:
        yield
    finally:
        for block in blocks:
            block.training = False


@register_adapter("MultiInstanceRoIHead")
class MultiInstanceAdapter(RCNNAdapter):
    """CrowdDet: two predictions per RoI, each a softmax over C + 1 with the background at index 0.

    Rows are RoI by RoI, its first prediction, then its second; a refined pair follows as a second block. They have no
    labels: which object a prediction stands for is decided by its loss, which tries both orders. The sum is divided by
    the number of RoIs, as the head's own loss is.
    """

    row_description = "both predictions of the student's sampled RoIs"
    no_labels = "a RoI of CrowdDet has two predictions, and its loss decides which object each one belongs to"
    supported_bbox_heads = (MultiInstanceBBoxHead,)

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        if student.bbox_head.with_refine and not teacher.bbox_head.with_refine:
            raise ValueError(
                "MultiInstanceRoIHead: the student refines its predictions (bbox_head.with_refine), the teacher does "
                "not, so the refined rows have no counterpart"
            )

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        (stage,) = self._stages
        if stage.output is None or stage.rois is None:
            return []
        with torch.enable_grad():
            student = self._rows(stage.output)
        if len(stage.rois):
            head = self.teacher.bbox_head
            extractor = self.teacher.bbox_roi_extractor
            teacher = self._rows(head(extractor(teacher_feats[: extractor.num_inputs], stage.rois)))
        else:
            teacher = student.detach()
        return [AlignedLogits(student, teacher, avg_factor=max(len(stage.rois), 1), meaning=self.meaning)]

    def _rows(self, output: tuple[Tensor, ...]) -> Tensor:
        """``(RoIs, 2 * (C + 1))`` scores of a head's output to rows ``(N, C + 1)``."""
        refined = self.student.bbox_head.with_refine
        scores = (output[0], output[2]) if refined else (output[0],)
        return torch.cat([s.reshape(-1, bbox_logits(self.student.bbox_head).num) for s in scores])
