"""YOLOX and YOLOv3: class logits that are meaningful only if there is an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.utils import reduce_mean
from torch import Tensor

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.dense.dense import DenseAdapter, concat, run_convs
from rekd_det.models.adapters.layout import Layout, grid_layout
from rekd_det.models.utils.taps import TapSet, argument
from rekd_det.models.utils.true_rows import true_rows


@register_adapter("YOLOXHead")
class YOLOXAdapter(DenseAdapter):
    """YOLOX: the positives that SimOTA assigns by the student's predictions; the teacher judges the same locations.

    The class logit is distilled, not its product with objectness, which is trained separately.
    """

    row_description = "locations that SimOTA makes positive"
    order = "image"
    conditional = True

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self._positive: Tensor | None = None
        self._any_map: Tensor | None = None

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        levels = zip(head.multi_level_cls_convs, head.multi_level_conv_cls, feats, strict=True)
        return [predictor(run_convs(convs, x)) for convs, predictor, x in levels]

    def tap(self, taps: TapSet) -> None:
        super().tap(taps)
        taps.add(self.student, self._on_output)
        taps.add(self.student.loss_obj, self._on_objectness)

    def _on_output(self, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        self._any_map = output[0][0]

    def _on_objectness(self, args: tuple, kwargs: dict[str, Any], _: Any) -> None:
        # The objectness targets are 1 at the positives, in the order in which the head flattens its locations.
        self._positive = argument(args, kwargs, 1, "label").flatten() > 0

    def student_rows(self) -> Tensor:
        if self._calls:
            return super().student_rows()
        assert self._any_map is not None
        # No positive, so the loss was not called: no rows, but attached to the graph.
        return self._any_map.flatten()[:0].view(0, self.num_logits)

    def select(self, rows: Tensor) -> Tensor:
        assert self._positive is not None
        count = sum(len(c.pred) for c in self._calls)
        return rows[true_rows(self._positive, count)]

    def targets(
        self, student: Tensor, data_samples: list
    ) -> tuple[Tensor | None, Tensor | None, Tensor | float | None]:
        labels = student.new_zeros(0, dtype=torch.long)
        if self._calls:
            best = concat([c.target for c in self._calls]).max(1)  # one class per row, times its IoU
            labels = best.indices.masked_fill(best.values <= 0, -1)
        count = student.new_full((), float(len(student)), dtype=torch.float32)  # bf16 can't hold 257
        return labels, None, reduce_mean(count).clamp(min=1)

    def clear(self) -> None:
        super().clear()
        self._positive = self._any_map = None


@register_adapter("YOLOV3Head")
class YOLOv3Adapter(DenseAdapter):
    """YOLOv3: all anchors, those without an object with weight 0; the sum over them, as the head's own loss."""

    conditional = True

    @classmethod
    def layout(cls, head: Any) -> Layout:
        return grid_layout(head, head.num_classes, cls.conditional)

    @classmethod
    def classify(cls, head: Any, feats: Sequence[Tensor]) -> list[Tensor]:
        maps = []
        for pred in head(tuple(feats))[0]:
            by_anchor = pred.unflatten(1, (-1, head.num_attrib))
            maps.append(by_anchor[:, :, 5:].flatten(1, 2))  # box, objectness, then classes
        return maps

    def student_rows(self) -> Tensor:
        return concat([c.pred.reshape(-1, self.num_logits) for c in self._calls])

    def targets(
        self, student: Tensor, data_samples: list
    ) -> tuple[Tensor | None, Tensor | None, Tensor | float | None]:
        labels = concat([c.target.argmax(-1).flatten() for c in self._calls])
        weight = concat([c.weight.flatten() for c in self._calls if c.weight is not None])
        # Background rows have no class; their argmax must not be used as one.
        return labels.masked_fill(weight == 0, self.num_logits), weight, 1.0
