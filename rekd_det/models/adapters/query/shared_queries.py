"""Let a teacher decode the student's queries, if its decoder takes queries as input.

A query of a two-stage decoder is a place (a box, found by the encoder) and a content (an embedding). The place means
the same to both networks, so the teacher gets the student's, in the student's order. The content lives in each
network's own space: a teacher was never trained on the student's embeddings, so it embeds the student's places itself,
with its own weights. Equal networks embed equally, and their rows are equal up to rounding.

The teacher decodes the matching queries alone: no other query, of denoising or DDQ's dense ones, can be seen by them.

Shared queries as the points at which two transformers are compared are the idea of KD-DETR (Wang et al., CVPR 2024,
"consistent distillation points").

Shapes: D decoder layers, B images, Q matching queries, N all queries of the student's decoder, c embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import DINO, DeformableDETR
from torch import Tensor

from rekd_det.models.utils.taps import TapSet


class SharedQueries(ABC):
    """Records the queries of the student's decoder and has the teacher's decode them.

    Args:
        student: the student detector.
        teacher: the teacher detector.
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        self.student = student
        self.teacher = teacher
        #: of the matching queries, as the student's decoder gets them: ``query`` ``(B, Q, c)``, and
        #: ``reference_points`` ``(B, Q, 4)``
        self.places: dict[str, Tensor] = {}

    def matching(self, total: int) -> slice:
        """Positions of the matching queries among all ``total`` queries of the student's decoder."""
        return slice(None)

    def tap(self, taps: TapSet) -> None:
        """Add the taps on the student."""

        def on_decoder(args: tuple, kwargs: dict, output: object) -> None:
            part = self.matching(kwargs["query"].shape[1])
            self.places = {k: kwargs[k][:, part] for k in ("query", "reference_points")}

        taps.add(self.student.decoder, on_decoder)

    def decode(self, feats: Sequence[Tensor], data_samples: list) -> Tensor:
        """The teacher's logits ``(D, B, Q, C)`` of the recorded queries.

        Args:
            feats: the teacher's own feature maps.
            data_samples: the batch's ``DetDataSample``s.
        """
        encoder_inputs, decoder_inputs = self.teacher.pre_transformer(feats, data_samples)
        memory = self.teacher.forward_encoder(**encoder_inputs)["memory"]
        queries = self.embed(memory)
        hidden = self.teacher.forward_decoder(memory=memory, **queries, **decoder_inputs)["hidden_states"]
        branches = self.teacher.bbox_head.cls_branches  # no boxes are regressed
        return torch.stack([branches[i](h) for i, h in enumerate(hidden)])

    @abstractmethod
    def embed(self, memory: Tensor) -> dict[str, Tensor | None]:
        """The arguments of the teacher's ``forward_decoder`` that make the queries; ``memory`` is its encoder's."""

    def clear(self) -> None:
        """Forget the recorded queries."""
        self.places = {}


class TwoStageQueries(SharedQueries):
    """Two-stage Deformable DETR: content and position are both computed from the place's sine embedding."""

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self._sine: Tensor | None = None

    def tap(self, taps: TapSet) -> None:
        super().tap(taps)

        def on_position(args: tuple, kwargs: dict, output: object) -> None:
            self._sine = args[0]

        taps.add(self.student.pos_trans_fc, on_position)

    def embed(self, memory: Tensor) -> dict[str, Tensor | None]:
        embedded = self.teacher.pos_trans_norm(self.teacher.pos_trans_fc(self._sine))
        query_pos, query = embedded.split(memory.shape[-1], dim=2)
        return dict(query=query, query_pos=query_pos, reference_points=self.places["reference_points"])

    def clear(self) -> None:
        super().clear()
        self._sine = None


class DINOQueries(SharedQueries):
    """DINO: content is a learned embedding per rank of the place among the encoder's proposals."""

    def matching(self, total: int) -> slice:
        return slice(total - self.student.num_queries, None)  # denoising queries come first

    def embed(self, memory: Tensor) -> dict[str, Tensor | None]:
        places = self.places["reference_points"]
        query = self.teacher.query_embedding.weight[: places.shape[1]].expand(len(places), -1, -1)
        return dict(query=query, reference_points=places, dn_mask=None)


def share_queries(student: Any, teacher: Any) -> SharedQueries | None:
    """How the teacher decodes the student's queries; None if these two detectors' queries have to be matched."""
    kinds = {type(student), type(teacher)}
    if kinds == {DINO} and teacher.num_queries >= student.num_queries:
        return DINOQueries(student, teacher)
    if kinds == {DeformableDETR} and student.as_two_stage and teacher.as_two_stage:
        return TwoStageQueries(student, teacher)
    return None
