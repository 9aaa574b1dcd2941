"""Adapter for R-CNN heads: rows are the RoIs that the student sampled.

A teacher's own RPN and sampler would give other RoIs, and its rows would have nothing to do with the student's. So the
teacher classifies the student's RoIs on its own feature maps, and nothing else of it runs: no RPN, no NMS, no assigner,
no sampler, no box or mask branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.roi_heads.bbox_heads import (
    BBoxHead,
    ConvFCBBoxHead,
    DoubleConvFCBBoxHead,
    SABLHead,
    SCNetBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from torch import Tensor, nn

from rekd_det.models.adapters.base import HeadAdapter, check_same_classes, register_adapter
from rekd_det.models.adapters.class_weight import ClassWeight
from rekd_det.models.adapters.roi.bbox_logits import bbox_logits, check_same_logits
from rekd_det.models.utils.taps import TapSet, argument
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning
from rekd_det.utils.shadow import shadowed

#: bbox heads that are known to work
BBOX_HEADS = (
    BBoxHead,
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
    DoubleConvFCBBoxHead,
    SABLHead,
    SCNetBBoxHead,
)


@dataclass
class _Stage:
    """What one stage's head computed in this step."""

    extracted: Tensor | None = None
    rois: Tensor | None = None
    output: tuple | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None
    weight: Tensor | None = None
    avg_factor: Tensor | float | None = None


@register_adapter("StandardRoIHead", "DynamicRoIHead", "DoubleHeadRoIHead")
class RCNNAdapter(HeadAdapter):
    """Single-stage RoI heads: Faster, Mask, Double-Head and Dynamic R-CNN, and others."""

    row_description = "the student's sampled RoIs"
    #: the bbox heads that this kind of RoI head is known to work with
    supported_bbox_heads: tuple[type, ...] = BBOX_HEADS

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        own, other = self.by_stage(student.bbox_head), self.by_stage(teacher.bbox_head)
        if len(own) != len(other):
            raise ValueError(
                f"{type(student).__name__} has {len(own)} stages, the teacher's {type(teacher).__name__} has "
                f"{len(other)}: each stage of the student needs its counterpart. Take a teacher with {len(own)}"
            )
        for head in own + other:
            self._check_bbox_head(head)
        for a, b in zip(own, other, strict=True):
            check_same_classes(type(student).__name__, a.num_classes, b.num_classes)
            check_same_logits(a, b)
        self._logits = bbox_logits(own[0])
        self._teachers_logits = bbox_logits(other[0])  # may come in another layout: Seesaw
        self._class_weights = [ClassWeight(head.loss_cls) for head in own]
        self._stages = [_Stage() for _ in own]

    @staticmethod
    def by_stage(part: Any) -> list[Any]:
        """A RoI head's ``bbox_head`` or ``bbox_roi_extractor`` by stage; one where there are no stages."""
        return list(part) if isinstance(part, nn.ModuleList) else [part]

    @property
    def num_logits(self) -> int:
        return self._logits.num

    @property
    def meaning(self) -> LogitMeaning:
        return self._logits.meaning

    @property
    def num_classes(self) -> int:
        return self.by_stage(self.student.bbox_head)[0].num_classes

    def _check_bbox_head(self, head: Any) -> None:
        kind, supported = type(head), self.supported_bbox_heads
        if kind in supported:
            return
        parent = next((base.__name__ for base in kind.__mro__ if base in supported), None)
        owner = type(self.student).__name__
        raise TypeError(
            f"bbox_head {kind.__name__} in a {owner} is not supported; "
            + (
                f"it derives from {parent}: if it classifies as that does, put "
                f"`ADAPTERS[{owner}].supported_bbox_heads += ({kind.__name__},)` below the class, with ADAPTERS "
                "from rekd_det.models.adapters (docs/new_detector.md)"
                if parent
                else f"supported: {', '.join(c.__name__ for c in supported)}, and what derives from them"
            )
        )

    def tap(self, taps: TapSet) -> None:
        self.clear()
        parts = zip(
            self._stages,
            self.by_stage(self.student.bbox_roi_extractor),
            self.by_stage(self.student.bbox_head),
            strict=True,
        )
        for stage, extractor, head in parts:
            _tap_stage(taps, stage, extractor, head)

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        aligned = []
        context = self.teacher_context(teacher_feats)
        for i, stage in enumerate(self._stages):
            if stage.logits is None or stage.rois is None:
                continue  # a cascade ends early if a stage leaves no proposal
            labels = stage.labels
            if labels is None:
                if len(stage.logits):
                    raise RuntimeError(
                        f"{type(self.student).__name__}: the classification loss of stage {i} was not called, "
                        "so its rows are unknown"
                    )
                labels = stage.logits.new_zeros(0, dtype=torch.long)  # no RoI at all
            with torch.enable_grad():
                student = self._logits.read(stage.logits)
            aligned.append(
                AlignedLogits(
                    student=student,
                    teacher=self._teacher_rows(i, teacher_feats, stage, context),
                    labels=labels,
                    weight=self._class_weights[i](labels, stage.weight),
                    avg_factor=stage.avg_factor,
                    meaning=self.meaning,
                    tag=self.tag(i),
                    loss_weight=self.stage_weight(i),
                )
            )
        return aligned

    def _teacher_rows(self, index: int, feats: Sequence[Tensor], stage: _Stage, context: dict) -> Tensor:
        assert stage.rois is not None and stage.logits is not None
        if len(stage.logits) == 0:  # no RoI at all: mmdet's extractors do not accept that everywhere
            return self._logits.read(stage.logits.detach())
        with _classification_only(self.by_stage(self.teacher.bbox_head)[index]):
            return self._teachers_logits.read(self.classify(index, feats, stage.rois, **context))

    def teacher_context(self, feats: Sequence[Tensor]) -> dict:
        """What the teacher computes once per step for all its stages, as keyword arguments of :meth:`classify`."""
        return {}

    def classify(self, stage: int, feats: Sequence[Tensor], rois: Tensor, **context) -> Tensor:
        """The teacher's classifier output, ``(N, C + 1)`` if it is plain, for RoIs ``(N, 5)``.

        A RoI is image index, x1, y1, x2, y2 in pixels.
        """
        bbox_head = self.teacher.bbox_head
        if isinstance(bbox_head, DoubleConvFCBBoxHead):
            return _classify_double(self.teacher, feats, rois)
        return self.teacher._bbox_forward(feats, rois)["cls_score"]

    def tag(self, stage: int) -> str:
        """Names the stage in the log."""
        return ""

    def stage_weight(self, stage: int) -> float:
        """The head's own weight of the stage's losses."""
        return 1.0

    def clear(self) -> None:
        for stage in self._stages:
            stage.__init__()  # type: ignore[misc]


@register_adapter("CascadeRoIHead")
class CascadeAdapter(RCNNAdapter):
    """Cascade R-CNN: stage k's RoIs are the student's refinement of stage k - 1; the teacher never refines."""

    def classify(self, stage: int, feats: Sequence[Tensor], rois: Tensor, **context) -> Tensor:
        return self.teacher._bbox_forward(stage, feats, rois, **context)["cls_score"]

    def tag(self, stage: int) -> str:
        return f"s{stage}"

    def stage_weight(self, stage: int) -> float:
        return float(self.student.stage_loss_weights[stage])


@register_adapter("HybridTaskCascadeRoIHead")
class HTCAdapter(CascadeAdapter):
    """HTC: the teacher's box features are fused with its *own* semantic features, never with the student's."""

    def teacher_context(self, feats: Sequence[Tensor]) -> dict:
        if not (self.teacher.with_semantic and "bbox" in self.teacher.semantic_fusion):
            return {}
        return {"semantic_feat": self.teacher.semantic_head(feats)[1]}


def _tap_stage(taps: TapSet, stage: _Stage, extractor: nn.Module, head: Any) -> None:
    def on_extract(args: tuple, kwargs: dict, _: Tensor) -> None:
        stage.extracted = argument(args, kwargs, 1, "rois")

    def on_head(args: tuple, kwargs: dict, output: tuple) -> None:
        # The RoIs of this call: the extractor may serve other heads (masks, grids) afterwards.
        stage.rois, stage.output, stage.logits = stage.extracted, output, output[0]

    def on_loss(args: tuple, kwargs: dict, _: object) -> None:
        if argument(args, kwargs, 4, "reduction_override") == "none":
            return  # a sampler that scores candidates with the loss, not the loss itself
        stage.labels = argument(args, kwargs, 1, "label")
        stage.weight = argument(args, kwargs, 2, "weight")
        stage.avg_factor = argument(args, kwargs, 3, "avg_factor")

    taps.add(extractor, on_extract)
    taps.add(head, on_head)
    taps.add(head.loss_cls, on_loss)


@contextmanager
def _classification_only(head: Any) -> Iterator[None]:
    """Leave out the box regressor and the layers before it that serve it alone, because its result is not used."""
    if isinstance(head, SABLHead):  # asks no switch, but its branches are methods
        switches: dict[str, Any] = {"reg_forward": lambda x: None}
    else:
        switches = {"with_reg": False, "reg_convs": (), "reg_fcs": ()}
    with ExitStack() as stack:
        for name, value in switches.items():
            if hasattr(head, name):
                stack.enter_context(shadowed(head, name, value))
        yield


def _classify_double(roi_head: Any, feats: Sequence[Tensor], rois: Tensor) -> Tensor:
    """Double-Head's fc branch; its conv branch, on RoI features of another scale, only regresses."""
    extractor, head = roi_head.bbox_roi_extractor, roi_head.bbox_head
    x = extractor(feats[: extractor.num_inputs], rois)
    if roi_head.with_shared_head:
        x = roi_head.shared_head(x)
    x = torch.flatten(x, 1)
    for fc in head.fc_branch:
        x = head.relu(fc(x))
    return head.fc_cls(x)
