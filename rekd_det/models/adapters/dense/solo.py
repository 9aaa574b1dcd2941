"""SOLO and its relatives: rows are the cells of an S x S grid per level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.dense.dense import DenseAdapter, run_convs
from rekd_det.models.adapters.layout import Layout
from rekd_det.structures.logit_meaning import LogitMeaning


@register_adapter("SOLOHead", "DecoupledSOLOHead", "DecoupledSOLOLightHead")
class SOLOAdapter(DenseAdapter):
    """SOLO, Decoupled SOLO and its light version; no masks are computed for the teacher."""

    row_description = "cells of the grids"

    @classmethod
    def layout(cls, head: Any) -> Layout:
        grids = tuple(float(n) for n in head.num_grids)
        return Layout(
            "grids", grids, (1,) * len(grids), head.num_classes, head.cls_out_channels, LogitMeaning("sigmoid")
        )

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        # Not the head's forward: in eval mode that returns scores after its point-wise suppression.
        maps = []
        for size, x in zip(head.num_grids, head.resize_feats(tuple(feats)), strict=True):
            for i, conv in enumerate(head.cls_convs):
                if i == head.cls_down_index:
                    x = F.interpolate(x, size=size, mode="bilinear")
                x = conv(x)
            maps.append(head.conv_cls(x))
        return maps


@register_adapter("SOLOV2Head")
class SOLOv2Adapter(SOLOAdapter):
    """SOLOv2: a level is resampled to its grid before any convolution."""

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        maps = []
        for size, x in zip(head.num_grids, head.resize_feats(tuple(feats)), strict=True):
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            maps.append(head.conv_cls(run_convs(head.cls_convs, x)))
        return maps
