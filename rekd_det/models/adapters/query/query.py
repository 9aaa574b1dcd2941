"""Adapter for DETR-like heads: rows are the matching queries of every decoder layer.

Not among the rows: the encoder's proposals of two-stage heads (the teacher would propose other places), and DINO's
denoising queries (the object's place and class were given to them).

Two ways to make the teacher's rows correspond, see docs/query_heads.md:

* *shared*: two-stage decoders take their queries as input, so the teacher decodes the student's (shared_queries.py);
* *matched*: learned queries belong to their network, so predictions are matched per image and layer (matching.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.matching import Pairs, box_cost, class_cost, match
from rekd_det.models.adapters.query.decoder_layers import DecoderLayersAdapter, check_same_layers
from rekd_det.models.adapters.query.shared_queries import SharedQueries, share_queries
from rekd_det.models.utils.taps import TapSet
from rekd_det.structures.aligned_logits import AlignedLogits


@register_adapter("DETRHead", "ConditionalDETRHead", "DABDETRHead", "DeformableDETRHead", "DINOHead")
class QueryAdapter(DecoderLayersAdapter):
    """DETR, Conditional, DAB and Deformable DETR (one-stage, refined, two-stage) and DINO.

    The two detectors may be of different kinds, and have different widths, feature levels and numbers of queries; the
    classes, the activation and the number of decoder layers must agree.
    """

    row_description = "matching queries, a set per decoder layer"

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        #: of the student: logits ``(B, Q, C)`` per layer, boxes ``(D, B, Q, 4)``
        self._output: tuple[list[Tensor], Tensor] | None = None
        self._shared: SharedQueries | None = None

    def bind(self, student: nn.Module, teacher: nn.Module) -> None:
        own, other = (d.decoder.num_layers for d in (student, teacher))  # type: ignore[union-attr]
        check_same_layers(type(student).__name__, own, other)  # type: ignore[arg-type]
        self._student_detector: Any = student
        self._teacher_detector: Any = teacher
        self._shared = share_queries(student, teacher)

    def tap(self, taps: TapSet) -> None:
        self.clear()

        def on_head(args: tuple, kwargs: dict, output: tuple) -> None:
            # Split here, where autograd records; align() runs without it.
            part = self._matching_part(output[0].shape[2])
            logits, boxes = (x[:, :, part] for x in output[:2])
            self._output = ([*logits], boxes.detach())

        taps.add(self.student, on_head)
        self.tap_targets(taps, self.student.loss_cls)
        if self._shared is not None:
            self._shared.tap(taps)

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        assert self._output is not None
        logits, boxes = self._output
        if self._shared is not None:
            rows = self._shared.decode(teacher_feats, data_samples)
            pairs: list[Pairs | None] = [None] * len(logits)
        else:
            # The teacher's own predictions: logits (D, B, R, C), and boxes (D, B, R, 4), cx, cy, w, h, normalised.
            queries = self._teacher_detector.forward_transformer(teacher_feats, data_samples)
            rows, teacher_boxes = self.teacher(**queries)
            cost = class_cost(torch.stack(logits).detach(), rows, self.meaning.activation)
            pairs = match(cost + box_cost(boxes, teacher_boxes))
        return [self.entry(i, f"d{i}", x, y, p) for i, (x, y, p) in enumerate(zip(logits, rows, pairs, strict=True))]

    def _matching_part(self, total: int) -> slice:
        """Positions of the matching queries among all queries; DINO's denoising queries come first."""
        denoises = hasattr(self._student_detector, "dn_query_generator")
        return slice(total - self._student_detector.num_queries if denoises else 0, None)

    def clear(self) -> None:
        super().clear()
        self._output = None
        if self._shared is not None:
            self._shared.clear()

    def describe(self) -> str:
        how = "the student's queries" if self._shared is not None else "queries matched by their predictions"
        return f"{super().describe()}, {how}"
