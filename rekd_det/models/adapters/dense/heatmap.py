"""Heads that classify the cells of heatmaps: CenterNet, CornerNet, CentripetalNet and CenterNet's update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rekd_det.models.adapters.base import HeadAdapter, register_adapter
from rekd_det.models.adapters.dense.dense import DenseAdapter
from rekd_det.models.adapters.dense.dense_output import OutputAdapter
from rekd_det.models.adapters.layout import Layout
from rekd_det.structures.logit_meaning import LogitMeaning

#: why no cell has a label
GAUSSIAN = "the target of a cell is a height between 0 and 1 for each class"


@register_adapter("CenterNetUpdateHead")
class CenterNetUpdateAdapter(OutputAdapter):
    """CenterNet's update: the loss sees clamped probabilities, so the logits are taken from the head's output."""

    branch = ("cls_convs", "conv_cls")
    no_labels = GAUSSIAN

    def class_losses(self) -> list[nn.Module]:
        return [self.student.loss_cls]


class HeatmapAdapter(DenseAdapter):
    """Heads with Gaussian targets; a cell's logits are those of its classes, before the sigmoid."""

    row_description = "cells of the heatmaps"
    no_labels = GAUSSIAN

    @classmethod
    def pairs_with(cls, teacher: type[HeadAdapter]) -> bool:
        return teacher is cls

    def class_losses(self) -> list[nn.Module]:
        return [self.student.loss_center_heatmap]


@register_adapter("CenterNetHead")
class CenterNetAdapter(HeatmapAdapter, OutputAdapter):
    """CenterNet: its head applies the sigmoid, so the logits are tapped inside it."""

    @property
    def source(self) -> nn.Module:
        return self.student.heatmap_head

    @classmethod
    def layout(cls, head: Any) -> Layout:
        return Layout("heatmaps", (1,), (1,), head.num_classes, head.num_classes, LogitMeaning("sigmoid"))

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        return [head.heatmap_head(x) for x in feats]

    @classmethod
    def class_maps(cls, head: Any, output: Any) -> list[Tensor]:
        return [output]


@register_adapter("CornerHead", "CentripetalHead")
class CornerAdapter(HeatmapAdapter, OutputAdapter):
    """CornerNet and CentripetalNet: top-left and bottom-right corners of each stack.

    Each of these heatmaps is divided by its own number of corners, which becomes the rows' weight.
    """

    @classmethod
    def layout(cls, head: Any) -> Layout:
        stacks = int(head.num_feat_levels)
        return Layout("stacks", (stacks,), (2,), head.num_classes, head.num_classes, LogitMeaning("sigmoid"))

    @classmethod
    def class_maps(cls, head: Any, output: Any) -> list[Tensor]:
        return [heat for pair in zip(output[0], output[1], strict=True) for heat in pair]

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        maps = []
        for i, x in enumerate(feats):
            maps += [head.tl_heat[i](head.tl_pool[i](x)), head.br_heat[i](head.br_pool[i](x))]
        return maps

    def class_losses(self) -> list[nn.Module]:
        return [self.student.loss_heatmap]

    def targets(self, student: Tensor, data_samples: list) -> tuple[None, Tensor, float]:
        weights = []
        for heat, call in zip(self._maps, self._calls, strict=True):
            corners = torch.as_tensor(call.avg_factor, dtype=torch.float, device=heat.device)
            # The head takes the mean of its two corners.
            weights.append((0.5 / corners).expand(heat[:, 0].numel()))
        return None, torch.cat(weights), 1.0
