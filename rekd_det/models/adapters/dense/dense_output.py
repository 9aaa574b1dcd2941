"""Dense heads without a module for their classification loss; their logits come from the head's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.utils import reduce_mean
from torch import Tensor, nn

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.dense.dense import DenseAdapter, flatten_maps
from rekd_det.models.utils.taps import TapSet


class OutputAdapter(DenseAdapter):
    """Heads whose class logits are tapped where they leave the head."""

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self._maps: list[Tensor] = []

    @property
    def source(self) -> nn.Module:
        """The module whose output has the class logits."""
        return self.student

    def class_losses(self) -> list[nn.Module]:
        return []

    def tap(self, taps: TapSet) -> None:
        super().tap(taps)
        taps.add(self.source, self._on_output)

    def _on_output(self, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        self._maps = self.class_maps(self.student, output)

    def student_rows(self) -> Tensor:
        if not self._maps:
            raise RuntimeError(f"{type(self.student).__name__} was not called, so its rows are unknown")
        return flatten_maps(self._maps, self.num_logits, self.order)

    def clear(self) -> None:
        super().clear()
        self._maps = []


@register_adapter("FreeAnchorRetinaHead")
class FreeAnchorAdapter(OutputAdapter):
    """FreeAnchor: all anchors weigh the same, and the sum is divided as its negative bag loss is."""

    branch = ("cls_convs", "retina_cls")
    no_labels = "FreeAnchor assigns no anchor to an object; its loss weighs all candidates"

    def targets(self, student: Tensor, data_samples: list) -> tuple[None, None, float]:
        objects = sum(len(s.gt_instances) for s in data_samples)
        return None, None, float(max(objects * self.student.pre_anchor_topk, 1))


@register_adapter("AutoAssignHead")
class AutoAssignAdapter(OutputAdapter):
    """AutoAssign: the logit of class and objectness together, whose probability is the product its loss uses.

    All points weigh the same; the sum is divided by the sum of the center priors, as the negative loss is.
    """

    no_labels = "AutoAssign assigns no point to an object; its loss weighs all of them"

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self._priors: list[Tensor] = []

    @classmethod
    def class_maps(cls, head: Any, output: Any) -> list[Tensor]:
        return [joint_logits(c, o) for c, o in zip(output[0], output[2], strict=True)]

    def tap(self, taps: TapSet) -> None:
        super().tap(taps)
        taps.add(self.student.center_prior, lambda args, kwargs, output: self._priors.append(output[0]))

    def targets(self, student: Tensor, data_samples: list) -> tuple[None, None, Tensor]:
        total = torch.stack([p.detach().sum() for p in self._priors]).sum()
        return None, None, reduce_mean(total).clamp(min=1)

    def clear(self) -> None:
        super().clear()
        self._priors = []


def joint_logits(class_logits: Tensor, objectness: Tensor) -> Tensor:
    """The logit of ``sigmoid(class_logits) * sigmoid(objectness)``, in fp32."""
    c, o = class_logits.float(), objectness.float()
    # p / (1 - p) = e^c e^o / (1 + e^c + e^o)
    return c + o - torch.logaddexp(torch.logaddexp(c, o), c.new_zeros(()))


class MiningAdapter(DenseAdapter):
    """SSD-like heads: softmax with background; only the hardest negatives of each image count.

    The rows are all anchors; weight 0 for negatives that the student's own loss does not pick.
    """

    activation = "softmax"
    row_description = "all anchors, of the negatives the hardest of each image"
    order = "image"
    #: the head's method that computes the loss of one image
    per_image = "loss_by_feat_single"
    #: whether all negatives count in an image without positives
    all_if_no_positive = False

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self._images: list[tuple[Tensor, Tensor, Tensor]] = []
        self._avg_factor: Tensor | float | None = None

    def tap(self, taps: TapSet) -> None:
        self.clear()
        taps.add_method(self.student, self.per_image, self._on_image)

    def _on_image(self, args: tuple, kwargs: dict[str, Any], _: Any) -> None:
        self._images.append((args[0], args[3], args[4]))  # logits, labels, label weights
        self._avg_factor = kwargs["avg_factor"]

    def student_rows(self) -> Tensor:
        if not self._images:
            raise RuntimeError(
                f"{type(self.student).__name__}.{self.per_image} was not called, so its rows are unknown; a head "
                "without hard-negative mining (use_ohem=False) is not supported"
            )
        return torch.cat([logits for logits, _, _ in self._images])

    def targets(self, student: Tensor, data_samples: list) -> tuple[Tensor, Tensor, Tensor | float | None]:
        labels = torch.cat([labels for _, labels, _ in self._images])
        return labels, torch.cat([self._mined(*image) for image in self._images]), self._avg_factor

    def _mined(self, logits: Tensor, labels: Tensor, label_weights: Tensor) -> Tensor:
        """Weights ``(M,)`` of one image's anchors: the positives and the hardest negatives, without a device sync."""
        background = self.meaning.background
        assert background is not None
        positive, negative = self.meaning.is_object(labels, self.num_logits), labels == background
        cost = nn.functional.cross_entropy(logits.float(), labels, reduction="none") * label_weights
        # Rank of each anchor among the negatives by falling cost.
        order = cost.masked_fill(~negative, -1.0).argsort(descending=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        limit = self.student.train_cfg["neg_pos_ratio"] * positive.sum()
        if self.all_if_no_positive:
            limit = limit.masked_fill(limit == 0, len(order))
        return (positive | (negative & (rank < limit))) * label_weights

    def clear(self) -> None:
        self._images, self._avg_factor = [], None


@register_adapter("SSDHead", "PISASSDHead")
class SSDAdapter(MiningAdapter):
    """SSD, SSDLite and PISA-SSD."""

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        return [convs(x) for convs, x in zip(head.cls_convs, feats, strict=True)]


@register_adapter("YOLACTHead")
class YOLACTAdapter(MiningAdapter):
    """YOLACT."""

    branch = ("head_convs", "conv_cls")
    per_image = "OHEMloss_by_feat_single"
    all_if_no_positive = True
