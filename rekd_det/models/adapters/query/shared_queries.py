"""Let a teacher decode the student's queries, where a decoder takes its queries as input.

A query of a two-stage decoder is a place (a box, found by the encoder) and a content (an embedding). The place means
the same to both networks, so the teacher gets the student's, in the student's order. The content lives in each
network's own space: a teacher was never trained on the student's embeddings, so it embeds the student's places itself,
with its own weights. Equal networks embed equally, and their rows are equal to the last bit.

Shared queries as the points at which two transformers are compared are the idea of KD-DETR (Wang et al., CVPR 2024,
"consistent distillation points").

Shapes: D decoder layers, B images, Q matching queries, N all queries of the decoder, c embedding width.
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
        self.places: dict[str, Tensor] = {}

    def tap(self, taps: TapSet) -> None:
        """Add the taps on the student."""

        def on_decoder(args: tuple, kwargs: dict, output: object) -> None:
            self.places = {k: kwargs[k] for k in ("query", "reference_points", "self_attn_mask") if k in kwargs}

        taps.add(self.student.decoder, on_decoder)

    def decode(self, feats: Sequence[Tensor], data_samples: list) -> Tensor:
        """The teacher's logits ``(D, B, N, C)`` of the recorded queries.

        Args:
            feats: the teacher's own feature maps.
            data_samples: the batch's ``DetDataSample``s.
        """
        encoder_inputs, decoder_inputs = self.teacher.pre_transformer(feats, data_samples)
        memory = self.teacher.forward_encoder(**encoder_inputs)["memory"]
        queries = self.embed(memory)
        hidden = self.teacher.forward_decoder(memory=memory, **queries, **decoder_inputs)["hidden_states"]
        return self.classify(hidden)

    @abstractmethod
    def embed(self, memory: Tensor) -> dict[str, Tensor]:
        """The arguments of the teacher's ``forward_decoder`` that make the queries; ``memory`` is its encoder's."""

    def classify(self, hidden: Tensor) -> Tensor:
        """Logits ``(D, B, N, C)`` of the decoder's states ``(D, B, N, c)``; no boxes are regressed."""
        branches = self.teacher.bbox_head.cls_branches
        return torch.stack([branches[i](h) for i, h in enumerate(hidden)])

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

    def embed(self, memory: Tensor) -> dict[str, Tensor]:
        embedded = self.teacher.pos_trans_norm(self.teacher.pos_trans_fc(self._sine))
        query_pos, query = embedded.split(memory.shape[-1], dim=2)
        return dict(query=query, query_pos=query_pos, reference_points=self.places["reference_points"])

    def clear(self) -> None:
        super().clear()
        self._sine = None


class DINOQueries(SharedQueries):
    """DINO: content is a learned embedding per rank of the place among the encoder's proposals.

    The decoder gets the student's denoising queries as well, without content: matching queries can't see them, and
    with them every sum is as long as the student's.
    """

    def embed(self, memory: Tensor) -> dict[str, Tensor]:
        places = self.places["reference_points"]
        count = self.student.num_queries
        query = memory.new_zeros(*places.shape[:2], memory.shape[-1])
        query[:, -count:] = self.teacher.query_embedding.weight[:count]
        return dict(query=query, reference_points=places, dn_mask=self.places["self_attn_mask"])


def share_queries(student: Any, teacher: Any) -> SharedQueries | None:
    """How the teacher decodes the student's queries; None if these two detectors' queries have to be matched."""
    kinds = {type(student), type(teacher)}
    if kinds == {DINO} and teacher.num_queries >= student.num_queries:
        return DINOQueries(student, teacher)
    if kinds == {DeformableDETR} and student.as_two_stage and teacher.as_two_stage:
        return TwoStageQueries(student, teacher)
    return None
