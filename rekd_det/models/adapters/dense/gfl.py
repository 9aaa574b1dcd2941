"""Heads that give each side of a box as a distribution over bins: Generalised Focal Loss and LD.

Shape legend: P positive rows (cells to which an object is assigned), n bins of a side (``reg_max + 1``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.utils import reduce_mean
from torch import Tensor

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.dense.dense import DenseAdapter, concat, run_convs
from rekd_det.models.utils.taps import TapSet, argument
from rekd_det.models.utils.true_rows import true_rows
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning


@register_adapter("GFLHead", "LDHead")
class GFLAdapter(DenseAdapter):
    """Generalised Focal Loss: the logit is of the class and its quality together, a box is four distributions."""

    branch = ("cls_convs", "gfl_cls")

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self._box_map: Tensor | None = None
        #: the logits ``(4 * P, n)`` of the sides of the positive rows, by level; no entry where a level has none
        self._sides: dict[int, Tensor] = {}

    def check_box_bins(self) -> int:
        if not issubclass(self.reader, GFLAdapter):
            raise ValueError(self._no_bins(self.teacher))
        own, other = self.student.reg_max, self.teacher.reg_max
        if own != other:
            raise ValueError(
                f"the student's {type(self.student).__name__} has reg_max={own}, the teacher's "
                f"{type(self.teacher).__name__} reg_max={other}: their bins are other distances. Set "
                "model.architecture.bbox_head.reg_max to the teacher's"
            )
        return own + 1

    def tap(self, taps: TapSet) -> None:
        super().tap(taps)
        taps.add(self.student, self._on_output)
        taps.add(self.student.loss_dfl, self._on_box_loss)

    def _on_output(self, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        self._box_map = output[1][0]

    def _on_box_loss(self, args: tuple, kwargs: dict[str, Any], _: Any) -> None:
        # A level's classification loss comes after this one, which is left out where the level has no positive row.
        self._sides[len(self._calls)] = argument(args, kwargs, 0, "pred")

    def align_boxes(self, teacher_feats: Sequence[Tensor], aligned: Sequence[AlignedLogits]) -> AlignedLogits:
        bins = self.student.reg_max + 1
        teachers, qualities = [], []
        for level, rows in enumerate(aligned[0].levels()):
            if level in self._sides:
                assert rows.is_object is not None
                at = true_rows(rows.is_object, len(self._sides[level]) // 4)
                teachers.append(self.reader.box_sides(self.teacher, teacher_feats[level], level, at))  # type: ignore
                qualities.append(rows.meaning.object_score(rows.teacher[at]))
        with torch.enable_grad():
            if self._sides:
                student = concat([*self._sides.values()])
            else:  # no row, but attached to the graph
                assert self._box_map is not None
                student = self._box_map.flatten()[:0].view(0, bins)
        teacher = concat(teachers) if teachers else student.detach()
        quality = concat(qualities) if qualities else student.new_zeros(0)
        # As the head divides its own loss on the distributions: a mean of the four sides, by the sum of the qualities.
        avg_factor = 4 * reduce_mean(quality.sum()).clamp(min=1)
        weight = quality[:, None].expand(-1, 4).reshape(-1)
        return AlignedLogits(student, teacher, None, weight, avg_factor, LogitMeaning("softmax"), tag="box")

    @classmethod
    def box_sides(cls, head: Any, feat: Tensor, level: int, rows: Tensor) -> Tensor:
        """Logits ``(4 * P, n)`` of the sides of some rows of a level, by the head's box branch alone.

        Args:
            head: the head.
            feat: the level's feature map ``(B, c, h, w)``.
            level: its index.
            rows: ``(P,)`` int64.
        """
        box_map = head.scales[level](head.gfl_reg(run_convs(head.reg_convs, feat)))
        cells = box_map.flatten(2).transpose(1, 2)
        of_image = cells.shape[1]
        return cells[rows // of_image, rows % of_image].float().reshape(-1, head.reg_max + 1)

    def clear(self) -> None:
        super().clear()
        self._box_map, self._sides = None, {}
