"""Adapter for dense heads: rows are the anchors or points of all pyramid levels.

Student and teacher see the same image at the same size, so their feature maps have the same cells, and a teacher whose
head has the student's strides and priors per location classifies the same rows by running its classification branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rekd_det.models.adapters.base import ADAPTERS, HeadAdapter, register_adapter
from rekd_det.models.adapters.class_weight import ClassWeight
from rekd_det.models.adapters.layout import Layout, check_same_layout, grid_layout
from rekd_det.models.utils.left_out import left_out
from rekd_det.models.utils.taps import TapSet, argument
from rekd_det.structures.aligned_logits import AlignedLevels, AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning


@dataclass
class LossCall:
    """Arguments of a call of the student's classification loss: one level, or all of them."""

    pred: Tensor
    target: Any
    weight: Tensor | None
    avg_factor: Tensor | float | None


class DenseAdapter(HeadAdapter):
    """Dense heads whose classification loss is a module that is called with logits.

    All levels of a head form one entry. Don't-care anchors stay rows with weight 0, as in the head's own loss.
    A teacher may be of another class than the student as long as the layouts are equal (see :class:`Layout`).
    """

    activation = "sigmoid"
    row_description = "all anchors or points"
    #: 'level': one level after the other, image by image inside; 'image': one image after the other
    order = "level"
    #: the convolutions of the classification branch and the layer that gives its logits, where the branch depends on
    #: nothing else; the teacher then runs only these. None: the logits are in the output of the whole head
    branch: tuple[str, str] | None = None
    #: an option of the head with which its logits depend on more than the branch, so that the whole head runs; '': none
    whole_if = ""
    #: convolutions of the head whose output its class logits do not depend on; the teacher leaves them out
    unread: tuple[str, ...] = ()
    #: whether objectness is separate, so that a class logit is meaningful only if there is an object
    conditional = False

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        #: the adapter of the teacher's head: it knows how to read that head's logits
        self.reader: type[DenseAdapter] = ADAPTERS[type(teacher)]  # type: ignore[assignment]
        own, other = self.layout(student), self.reader.layout(teacher)
        check_same_layout(student, teacher, own, other)
        self._layout = own
        self._class_weight = ClassWeight(getattr(student, "loss_cls", None))
        self._calls: list[LossCall] = []

    @classmethod
    def pairs_with(cls, teacher: type[HeadAdapter]) -> bool:
        return issubclass(teacher, DenseAdapter)

    # How a head is read: for the student's and, by the reader, for the teacher's.

    @classmethod
    def layout(cls, head: Any) -> Layout:
        """Where the rows of a head lie."""
        return grid_layout(head, head.cls_out_channels, cls.conditional)

    @classmethod
    def class_maps(cls, head: Any, output: Any) -> list[Tensor]:
        """The class logits ``(B, A * C, h, w)`` per level in the output of a head."""
        return list(output[0])

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        """Run a head on feature maps, as far as its class logits ``(B, A * C, h, w)`` per level need it."""
        if cls.branch is None or (cls.whole_if and getattr(head, cls.whole_if)):
            with left_out(getattr(head, name) for name in cls.unread):
                return cls.class_maps(head, head(tuple(feats)))
        convs, predictor = (getattr(head, name) for name in cls.branch)
        return [predictor(run_convs(convs, x)) for x in feats]

    # What the student does.

    @property
    def num_logits(self) -> int:
        return self._layout.num_logits

    @property
    def meaning(self) -> LogitMeaning:
        return self._layout.meaning

    def class_losses(self) -> list[nn.Module]:
        """The student's classification losses."""
        return [self.student.loss_cls]

    def tap(self, taps: TapSet) -> None:
        self.clear()
        for loss in self.class_losses():
            taps.add(loss, self._on_loss)

    def _on_loss(self, args: tuple, kwargs: dict[str, Any], _: Any) -> None:
        if argument(args, kwargs, 4, "reduction_override") == "none":
            return  # an assigner or sampler that scores candidates with the loss, not the loss itself
        names = ("pred", "target", "weight", "avg_factor")
        self._calls.append(LossCall(*(argument(args, kwargs, i, name) for i, name in enumerate(names))))

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        maps = self.reader.classify(self.teacher, teacher_feats)
        if self._calls_are_levels(maps):
            return [self._align_levels(maps, data_samples)]
        with torch.enable_grad():
            student = self.student_rows()
        teacher = self.select(flatten_maps(maps, self.num_logits, self.order))
        if student.shape != teacher.shape:
            raise RuntimeError(
                f"{type(self.student).__name__} has logits {tuple(student.shape)} in {len(self._calls)} calls of its "
                f"classification loss, the teacher's {type(self.teacher).__name__} {tuple(teacher.shape)}: their "
                "feature maps have other sizes. model.teacher and model.architecture need the same strides and number "
                "of levels, and a head of your own must give its loss each row once (docs/new_detector.md)"
            )
        labels, weight, avg_factor = self.targets(student, data_samples)
        return [AlignedLogits(student, teacher, labels, weight, avg_factor, self.meaning)]

    def _calls_are_levels(self, maps: list[Tensor]) -> bool:
        """Whether the student's loss saw the rows of each of the teacher's levels, one level a call."""
        own = type(self)
        if own.student_rows is not DenseAdapter.student_rows or own.select is not DenseAdapter.select:
            return False
        rows = [m.numel() // self.num_logits for m in maps]
        return self.order == "level" and len(maps) > 1 and [len(c.pred) for c in self._calls] == rows

    def _align_levels(self, maps: list[Tensor], data_samples: list) -> AlignedLevels:
        students = [c.pred for c in self._calls]
        labels, weight, avg_factor = self.targets(students[0], data_samples)
        teachers = []
        for _ in students:
            # A map is freed once its rows exist, so that the memory never holds all maps and all rows.
            teachers.append(flatten_maps([maps.pop(0)], self.num_logits, self.order))
        return AlignedLevels(students, teachers, labels, weight, avg_factor, self.meaning)

    def student_rows(self) -> Tensor:
        """The student's logits ``(N, C)``, attached to the graph."""
        if not self._calls:
            raise RuntimeError(
                f"{type(self.student).__name__}: its classification loss was not called, so its rows are unknown"
            )
        return concat([c.pred for c in self._calls])

    def select(self, rows: Tensor) -> Tensor:
        """The teacher's rows that the student's loss sees."""
        return rows

    def targets(
        self, student: Tensor, data_samples: list
    ) -> tuple[Tensor | None, Tensor | None, Tensor | float | None]:
        """Labels ``(N,)``, weights ``(N,)`` and ``avg_factor`` of the rows; None where the head has none.

        Args:
            student: the student's rows ``(N, C)``; those of the first level where each level has a call of its own.
            data_samples: the batch's ``DetDataSample``s.
        """
        found = [class_indices(c.target) for c in self._calls]
        weights = [c.weight for c in self._calls]
        labels = None if any(x is None for x in found) else concat([x for x in found if x is not None])
        weight = None if any(x is None for x in weights) else concat([x for x in weights if x is not None])
        if labels is not None:
            weight = self._class_weight(labels, weight)
        return labels, weight, self._calls[-1].avg_factor

    def clear(self) -> None:
        self._calls.clear()


def run_convs(convs: Any, x: Tensor) -> Tensor:
    """A feature map through a chain of layers."""
    for conv in convs:
        x = conv(x)
    return x


def concat(parts: list[Tensor]) -> Tensor:
    """Concatenate along the rows; a single part is returned without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def class_indices(target: Any) -> Tensor | None:
    """The labels ``(N,)`` int64 in a loss's target: labels alone, or labels and a quality; None for soft targets."""
    if isinstance(target, tuple):
        target = target[0]
    return target if target.dim() == 1 and not target.is_floating_point() else None


def flatten_maps(maps: list[Tensor], num_logits: int, order: str) -> Tensor:
    """Logit maps ``(B, A * C, h, w)`` per level to rows ``(N, C)``, anchors of a cell fastest, in one copy.

    Args:
        maps: one map per level.
        num_logits: C.
        order: 'level' or 'image', see :attr:`DenseAdapter.order`.
    """
    cells = [m.flatten(2).transpose(1, 2) for m in maps]
    if order == "image":
        parts = [level[b] for b in range(len(cells[0])) for level in cells]
    else:
        parts = [image for level in cells for image in level]
    if len({p.shape[1] for p in parts}) > 1:  # levels with different numbers of anchors (SSD)
        parts = [p.reshape(-1, num_logits) for p in parts]
    return torch.cat(parts).view(-1, num_logits)


@register_adapter("RetinaHead", "SABLRetinaHead")
class RetinaAdapter(DenseAdapter):
    """RetinaNet (also with GHM or another loss class) and SABL RetinaNet."""

    branch = ("cls_convs", "retina_cls")


@register_adapter("PISARetinaHead")
class PISARetinaAdapter(RetinaAdapter):
    """PISA RetinaNet: only the importance-weighted call counts, not the one that scores candidates."""

    order = "image"


@register_adapter("FSAFHead")
class FSAFAdapter(RetinaAdapter):
    """FSAF: all levels' anchors; the choice of each object's level, made after the loss, is not followed.

    Its label weights are per class; a row counts where any of its classes does.
    """

    def targets(
        self, student: Tensor, data_samples: list
    ) -> tuple[Tensor | None, Tensor | None, Tensor | float | None]:
        labels, weight, avg_factor = super().targets(student, data_samples)
        assert weight is not None
        return labels, weight.view(-1, self.num_logits).amax(1), avg_factor


@register_adapter("RetinaSepBNHead")
class RetinaSepBNAdapter(DenseAdapter):
    """RetinaNet whose convolutions have a norm per level."""

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        return [head.retina_cls(run_convs(convs, x)) for convs, x in zip(head.cls_convs, feats, strict=True)]


@register_adapter("GARetinaHead")
class GARetinaAdapter(DenseAdapter):
    """Guided Anchoring: the teacher's own predicted shapes adapt its features, and no location is masked out."""

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        # Not the head's forward: in eval mode that computes one image's locations only.
        maps = []
        for x in feats:
            shape = head.conv_shape(run_convs(head.reg_convs, x))
            maps.append(head.retina_cls(head.feature_adaption_cls(run_convs(head.cls_convs, x), shape), None))
        return maps


@register_adapter("ATSSHead", "DDODHead")
class ATSSAdapter(DenseAdapter):
    """ATSS, DyHead and DDOD. DDOD's weights of the levels, applied after its loss, are not followed."""

    branch = ("cls_convs", "atss_cls")


@register_adapter("PAAHead", "LADHead")
class PAAAdapter(ATSSAdapter):
    """PAA and LAD: only the call after the reassignment counts, not those that score candidates."""

    order = "image"


@register_adapter("FCOSHead", "NASFCOSHead", "CondInstBboxHead", "BoxInstBboxHead")
class FCOSAdapter(DenseAdapter):
    """FCOS and the instance heads built on it; all points have equal weight, centerness is not used."""

    branch = ("cls_convs", "conv_cls")


@register_adapter("FoveaHead")
class FoveaAdapter(DenseAdapter):
    """FoveaBox; features that are aligned depend on its boxes."""

    branch = ("cls_convs", "conv_cls")
    whole_if = "with_deform"


@register_adapter("YOLOFHead")
class WholeHeadAdapter(DenseAdapter):
    """Heads whose logits depend on their regression: YOLOF (objectness folded in)."""


@register_adapter("RepPointsHead")
class RepPointsAdapter(WholeHeadAdapter):
    """RepPoints: the first points place the classification's samples, the refined ones are not used."""

    unread = ("reppoints_pts_refine_conv", "reppoints_pts_refine_out")


@register_adapter("VFNetHead")
class VarifocalAdapter(WholeHeadAdapter):
    """VarifocalNet: the first boxes place the classification's samples, the refined ones are not used."""

    unread = ("vfnet_reg_refine_dconv", "vfnet_reg_refine")
    no_labels = "the target of a point is an IoU for each class"
