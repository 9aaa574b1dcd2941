"""Adapter for the classification heads of MMPretrain: a row is an image.

Both networks see one batch, which the student's preprocessor has mixed already where it has batch augmentations (Mixup,
CutMix). So row i of one and row i of the other are the same picture, and the teacher's head runs on its own features.

Shape legend: B images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models.heads import (
    ArcFaceClsHead,
    ClsHead,
    ConformerHead,
    CSRAClsHead,
    DeiTClsHead,
    EfficientFormerClsHead,
    LeViTClsHead,
    LinearClsHead,
    MultiLabelClsHead,
    MultiLabelLinearClsHead,
    MultiTaskHead,
    StackedLinearClsHead,
    VigClsHead,
    VisionTransformerClsHead,
)
from torch import Tensor, nn

from rekd_det.models.adapters.base import REFUSED_HEADS, HeadAdapter, check_same_classes, register_adapter
from rekd_det.models.utils.taps import TapSet, argument
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning

REFUSED_HEADS[ArcFaceClsHead] = (
    "in training it subtracts a margin from the label's logit, so its logits are not a prediction for the image that a "
    "teacher's could be compared with. Distil only its features: model.distiller.loss=None with feature_losses of type "
    "mmrazor.L2Loss"
)
REFUSED_HEADS[MultiTaskHead] = "it has a head for each of several tasks; distil the tasks one by one"


@register_adapter(
    ClsHead,
    LinearClsHead,
    StackedLinearClsHead,
    VisionTransformerClsHead,
    DeiTClsHead,
    LeViTClsHead,
    EfficientFormerClsHead,
    VigClsHead,
)
class ClassifierAdapter(HeadAdapter):
    """Heads that give each image one label, by a softmax in their predictions.

    The loss treats the logits as the head's own loss does: as a softmax, or as one sigmoid for each class where student
    *and* teacher were trained so (``CrossEntropyLoss(use_sigmoid=True)``).
    """

    row_description = "images"
    #: whether an image has exactly one label
    single_label = True
    #: names of the student's logits where it has several sets of them
    tags: tuple[str, ...] = ("",)

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        for key in ("distillation", "dist"):
            if getattr(student, key, False):
                raise ValueError(
                    f"the student's {type(student).__name__} has a second classifier for a distillation of its own, "
                    "which MMPretrain can't train; set model.architecture.head.distillation=False"
                )
        if _is_sigmoid(student.loss_module) and _is_sigmoid(teacher.loss_module):
            self.activation = "sigmoid"
        self._calls: list[tuple[Tensor, Tensor]] = []
        self._num_logits = 0

    @classmethod
    def pairs_with(cls, teacher: type[HeadAdapter]) -> bool:
        return issubclass(teacher, ClassifierAdapter) and teacher.single_label is cls.single_label

    def bind(self, student: nn.Module, teacher: nn.Module) -> None:
        own, other = _num_classes(student, "architecture"), _num_classes(teacher, "teacher")
        check_same_classes(type(self.student).__name__, own, other)
        self._num_logits = own
        mixing = getattr(student.data_preprocessor, "batch_augments", None)
        if mixing is not None:
            names = ", ".join(type(a).__name__ for a in mixing.augments)
            self.no_labels = f"{names} (model.architecture.train_cfg.augments) mixes the labels of two images into one"

    @property
    def num_logits(self) -> int:
        return self._num_logits

    @property
    def meaning(self) -> LogitMeaning:
        return LogitMeaning(self.activation)  # each logit is a class: an image has no background

    @property
    def num_classes(self) -> int:
        return self._num_logits

    def tap(self, taps: TapSet) -> None:
        self.clear()
        taps.add(self.student.loss_module, self._on_loss)

    def _on_loss(self, args: tuple, kwargs: dict[str, Any], _: Any) -> None:
        self._calls.append((args[0], argument(args, kwargs, 1, "target")))

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        if len(self._calls) != len(self.tags):
            raise RuntimeError(
                f"{type(self.student).__name__} called its loss {len(self._calls)} times in a step, expected "
                f"{len(self.tags)}: the rows are unknown"
            )
        opinions = self.classify(teacher_feats)
        return [
            AlignedLogits(
                student=logits,
                teacher=opinion,
                labels=self._labels(target, data_samples),
                meaning=self.meaning,
                tag=tag,
            )
            for tag, opinion, (logits, target) in zip(self.tags, opinions, self._calls, strict=True)
        ]

    def classify(self, teacher_feats: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's logits ``(B, C)``, one for each set of the student's."""
        logits = self.teacher(teacher_feats)
        # A Conformer predicts by the sum of its two branches.
        whole = logits if isinstance(logits, Tensor) else torch.stack(list(logits)).sum(0)
        return [whole] * len(self.tags)

    def _labels(self, target: Tensor, data_samples: list) -> Tensor | None:
        if target.dim() == 1:
            return target
        # One-hot scores come from labels, unless they were mixed.
        if self.no_labels is not None or not all("gt_label" in s and len(s.gt_label) == 1 for s in data_samples):
            return None
        return torch.cat([s.gt_label for s in data_samples]).to(target.device)

    def clear(self) -> None:
        self._calls = []


@register_adapter(ConformerHead)
class ConformerAdapter(ClassifierAdapter):
    """Conformer: each of its branches classifies and is distilled by itself.

    A Conformer teaches branch by branch, another teacher gives both branches the same logits.
    """

    tags = ("conv", "trans")

    def classify(self, teacher_feats: Sequence[Tensor]) -> list[Tensor]:
        if isinstance(self.teacher, ConformerHead):
            return list(self.teacher(teacher_feats))
        return super().classify(teacher_feats)


@register_adapter(MultiLabelClsHead, MultiLabelLinearClsHead, CSRAClsHead)
class MultiLabelAdapter(ClassifierAdapter):
    """Heads with an independent sigmoid for each class, and no single label."""

    activation = "sigmoid"
    single_label = False

    no_labels = "the student's head may give an image several labels or none"


def _is_sigmoid(loss: Any) -> bool:
    """Whether a loss of MMPretrain treats every class by itself; LabelSmoothLoss holds another loss inside."""
    loss = getattr(loss, "ce", loss)
    return bool(getattr(loss, "use_sigmoid", type(loss).__name__ == "FocalLoss"))


def _num_classes(model: Any, role: str) -> int:
    """C of a classifier; where the head has no classifier of its own, its backbone has."""
    head = model.head
    candidates = [
        getattr(head, "num_classes", None),
        getattr(getattr(head, "fc2", None), "out_features", None),
        *(part.head.out_channels for part in getattr(head, "csra_heads", [])[:1]),
        getattr(model.backbone, "num_classes", None),
        getattr(model.data_preprocessor, "num_classes", None),
    ]
    found = next((c for c in candidates if isinstance(c, int) and c > 0), None)
    if found is None:
        raise ValueError(
            f"{type(head).__name__} does not say how many classes it has; set "
            f"model.{role}.data_preprocessor.num_classes"
        )
    return found
