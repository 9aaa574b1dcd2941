"""Adapter for MaskFormer and Mask2Former: rows are all queries of every decoder layer (and Mask2Former's initial ones).

The queries are learned, so the teacher's predictions are matched to the student's by class and mask, per image and
layer (see matching.py). Panoptic, instance and semantic variants are the same head: stuff and things are classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import Mask2FormerHead
from torch import Tensor

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.matching import class_cost, mask_cost, match
from rekd_det.models.adapters.query.decoder_layers import DecoderLayersAdapter, check_same_layers
from rekd_det.models.utils.taps import TapSet
from rekd_det.structures.aligned_logits import AlignedLogits


@register_adapter("MaskFormerHead", "Mask2FormerHead")
class MaskQueryAdapter(DecoderLayersAdapter):
    """MaskFormer and Mask2Former; widths, feature levels and numbers of queries may differ."""

    row_description = "queries, a set per decoder layer"

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        check_same_layers(type(student).__name__, _predictions(student), _predictions(teacher))
        #: of the student, per layer: logits ``(B, Q, C)``, mask logits ``(B, Q, h, w)``
        self._output: tuple[list[Tensor], list[Tensor]] | None = None

    def tap(self, taps: TapSet) -> None:
        self.clear()

        def on_head(args: tuple, kwargs: dict, output: tuple) -> None:
            # Split here, where autograd records; align() runs without it.
            logits, masks = output
            self._output = ([*logits], [m.detach() for m in masks])

        taps.add(self.student, on_head)
        self.tap_targets(taps, self.student.loss_cls)

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        assert self._output is not None
        logits, masks = self._output
        rows, teacher_masks = self.teacher(teacher_feats, data_samples)
        cost = [
            class_cost(a.detach(), b, self.meaning.activation) + mask_cost(m, n)
            for a, b, m, n in zip(logits, rows, masks, teacher_masks, strict=True)
        ]
        pairs = match(torch.stack(cost))
        return [self.entry(i, f"d{i}", x, y, p) for i, (x, y, p) in enumerate(zip(logits, rows, pairs, strict=True))]

    def clear(self) -> None:
        super().clear()
        self._output = None

    def describe(self) -> str:
        return f"{super().describe()}, queries matched by their predictions"


def _predictions(head: Any) -> int:
    """How many times a head classifies its queries."""
    # Mask2Former also classifies its queries before the first layer.
    return head.transformer_decoder.num_layers + isinstance(head, Mask2FormerHead)
