"""Dense heads whose targets or scores combine a class with a quality: RTMDet, TOOD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.utils import sigmoid_geometric_mean
from mmdet.utils import reduce_mean
from torch import Tensor, nn
from torch.nn import functional as F

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.dense.dense import DenseAdapter, concat, run_convs
from rekd_det.models.adapters.dense.dense_output import OutputAdapter

#: probabilities are kept this far from 0 and 1 before they are turned back into logits
PROBABILITY_MARGIN = 1e-6


def to_logits(probabilities: Tensor) -> Tensor:
    """Logits of probabilities, in fp32; clipped entries have no gradient."""
    return torch.logit(probabilities.float(), eps=PROBABILITY_MARGIN)


class QualityAdapter(DenseAdapter):
    """Heads that hand ``avg_factor=1`` to their loss and divide afterwards, by the sum of the target qualities."""

    def targets(
        self, student: Tensor, data_samples: list
    ) -> tuple[Tensor | None, Tensor | None, Tensor | float | None]:
        labels, weight, _ = super().targets(student, data_samples)
        assert labels is not None
        qualities = [c.target[1] for c in self._calls if isinstance(c.target, tuple)]
        # Without qualities (TOOD's first epochs) every positive counts 1.
        total = concat(qualities).sum() if qualities else (labels < self.num_logits).sum().float()
        return labels, weight, reduce_mean(total).clamp(min=1)


@register_adapter("RTMDetHead", "RTMDetInsHead")
class RTMDetAdapter(QualityAdapter):
    """RTMDet and RTMDet-Ins; where there is an objectness branch it is folded into the logits."""

    branch = ("cls_convs", "rtm_cls")
    whole_if = "with_objectness"


@register_adapter("RTMDetSepBNHead", "RTMDetInsSepBNHead")
class RTMDetSepBNAdapter(RTMDetAdapter):
    """RTMDet with a norm, or all layers, per level."""

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        if head.with_objectness:
            return super().classify(head, feats)
        levels = zip(head.cls_convs, head.rtm_cls, feats, strict=True)
        return [predictor(run_convs(convs, x)) for convs, predictor, x in levels]


@register_adapter("TOODHead")
class TOODAdapter(OutputAdapter, QualityAdapter):
    """TOOD: its score is a probability, the geometric mean of a class and an alignment; its logit is distilled."""

    @classmethod
    def class_maps(cls, head: Any, output: Any) -> list[Tensor]:
        return [to_logits(p) for p in output[0]]

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        maps = []
        for x in feats:
            shared = [x]  # with the boxes
            for conv in head.inter_convs:
                shared.append(conv(shared[-1]))
            joint = torch.cat(shared[1:], 1)
            logits = head.tood_cls(head.cls_decomp(joint, F.adaptive_avg_pool2d(joint, 1)))
            maps.append(to_logits(sigmoid_geometric_mean(logits, head.cls_prob_module(joint))))
        return maps

    def class_losses(self) -> list[nn.Module]:
        return [self.student.initial_loss_cls, self.student.loss_cls]
