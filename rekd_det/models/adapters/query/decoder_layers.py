"""What the adapters of query heads share: one set of rows per decoder layer, weighted as the head's own loss does.

The losses of a query head call ``loss_cls`` once per decoder layer, in order; calls for an encoder's proposals or for
denoising queries come later. Shapes: B images, Q queries, C class logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rekd_det.models.adapters.base import HeadAdapter, check_same_classes
from rekd_det.models.adapters.class_weight import ClassWeight
from rekd_det.models.adapters.matching import Pairs
from rekd_det.models.utils.taps import TapSet, argument
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning


class DecoderLayersAdapter(HeadAdapter):
    """Base of the query adapters: records the targets of each layer and builds its :class:`AlignedLogits`."""

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        own, other = self.classifier(student), self.classifier(teacher)
        name = type(student).__name__
        check_same_classes(name, own.num_classes, other.num_classes)
        if _activation(own) != _activation(other):
            raise ValueError(
                f"{name} classifies by {_activation(own)}, the teacher's {type(teacher).__name__} by "
                f"{_activation(other)}: their logits differ in meaning. Take a teacher with the same kind of loss_cls"
            )
        self._class_weight = ClassWeight(own.loss_cls)
        self._targets: list[tuple[Tensor, Tensor | None, Tensor | float | None]] = []

    @staticmethod
    def classifier(head: Any) -> Any:
        """The module that holds ``num_classes`` and ``loss_cls``."""
        return head

    @property
    def num_logits(self) -> int:
        return self.classifier(self.student).num_classes + (self.meaning.background is not None)

    @property
    def meaning(self) -> LogitMeaning:
        head = self.classifier(self.student)
        activation = _activation(head)
        return LogitMeaning(activation, head.num_classes if activation == "softmax" else None)

    def tap_targets(self, taps: TapSet, loss_cls: nn.Module) -> None:
        """Record labels, weights and avg_factor of every call of a classification loss."""

        def on_loss(args: tuple, kwargs: dict, _: object) -> None:
            target = argument(args, kwargs, 1, "target")
            labels = target[0] if isinstance(target, tuple) else target  # (labels, quality)
            self._targets.append((labels, argument(args, kwargs, 2, "weight"), argument(args, kwargs, 3, "avg_factor")))

        taps.add(loss_cls, on_loss)

    def entry(
        self,
        layer: int,
        tag: str,
        student: Tensor,
        teacher: Tensor,
        pairs: Pairs | None = None,
        loss_weight: float = 1.0,
    ) -> AlignedLogits:
        """The rows of one layer.

        Args:
            layer: which of the recorded loss calls is the layer's.
            tag: names the layer in the log.
            student: ``(B, Q, C)`` or ``(N, C)`` logits, the rows of the loss call, attached to the graph.
            teacher: ``(B, R, C)`` or ``(M, C)`` logits.
            pairs: which rows belong together; None if the rows already correspond.
            loss_weight: the head's own weight of the layer.

        Raises:
            RuntimeError: if the recorded loss call is not about these rows.
        """
        labels, weight, avg_factor = self._targets[layer] if layer < len(self._targets) else (None, None, None)
        count = student.shape[:-1].numel()
        if labels is None or len(labels) != count:
            got = "was not called" if labels is None else f"saw {len(labels)} rows, the layer has {count}"
            raise RuntimeError(
                f"{type(self.student).__name__}: the classification loss of {tag} {got}; the head differs from "
                "MMDetection's, and needs an adapter of its own"
            )
        weight = torch.ones_like(labels, dtype=torch.float) if weight is None else weight.float()
        weight = self._class_weight(labels, weight)
        assert weight is not None
        teacher = teacher.reshape(-1, teacher.shape[-1])
        with torch.enable_grad():  # the teacher answers under no_grad, but these rows are the student's
            student = student.reshape(-1, student.shape[-1])
            if pairs is not None:
                student = student[pairs[0]]
        if pairs is not None:
            teacher, labels, weight = teacher[pairs[1]], labels[pairs[0]], weight[pairs[0]]
        return AlignedLogits(
            student=student,
            teacher=teacher,
            labels=labels,
            weight=weight,
            avg_factor=avg_factor,
            meaning=self.meaning,
            tag=tag,
            loss_weight=loss_weight,
        )

    def clear(self) -> None:
        self._targets = []


def _activation(head: Any) -> str:
    return "sigmoid" if head.loss_cls.use_sigmoid else "softmax"


def check_same_layers(owner: str, student: int, teacher: int) -> None:
    """Raise ValueError unless both networks classify their queries equally often."""
    if student != teacher:
        raise ValueError(
            f"{owner}: the student classifies its queries {student} times, the teacher {teacher}: after each layer or "
            "stage of its decoder, and Mask2Former before the first too. Each time learns from its counterpart, so "
            "both need as many"
        )
