"""Adapter for DDQ-DETR: rows are the distinct queries of every decoder layer, as the student selected them.

DDQ drops, between layers, queries whose boxes overlap those of better ones. A dropped query gets no loss, so its logits
mean nothing; hence the teacher takes over the student's selection along with the student's queries, and no row is
compared that either of the two would have dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rekd_det.models.adapters.base import register_adapter
from rekd_det.models.adapters.query.query import QueryAdapter
from rekd_det.models.adapters.query.shared_queries import SharedQueries
from rekd_det.models.utils.taps import TapSet, argument
from rekd_det.models.utils.true_rows import true_rows
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.utils.shadow import shadowed


class DDQQueries(SharedQueries):
    """DDQ: content is the encoder's (mapped) feature at the point that proposed the place.

    The teacher takes its own feature at the same point.
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self._features: list[Tensor] = []

    def tap(self, taps: TapSet) -> None:
        super().tap(taps)
        # Called once per image; the queries are rows of its output.
        taps.add(self.student.query_map, lambda args, kwargs, output: self._features.append(output))

    def matching(self, total: int) -> slice:
        # Between the denoising and the dense queries.
        start, count = self.student.cache_dict["dis_query_info"]
        return slice(start, start + count)

    def kept(self, layer: int) -> Tensor:
        """``(B, Q)`` bool: which distinct queries reach the loss of a layer."""
        images, count = self.places["query"].shape[0], self.student.num_queries
        if layer == 0:
            return torch.ones(images, count, dtype=torch.bool, device=self.places["query"].device)
        # As the head's loss reads it.
        return self._selection(layer - 1)[:, 0]

    def _selection(self, layer: int) -> Tensor:
        """``(B, Q, Q)`` bool: which distinct queries see each other after a layer."""
        cache = self.student.cache_dict
        return cache["distinct_query_mask"][layer][:: cache["num_heads"]]

    def embed(self, memory: Tensor) -> dict[str, Tensor | None]:
        contents = []
        for features, own, queries in zip(self._features, memory, self.places["query"], strict=True):
            if len(features) != len(own):
                raise ValueError(
                    f"DDQDETR: the student's feature maps have {len(features)} points, the teacher's {len(own)}: "
                    "a query's content is the feature of one point. Take a teacher with the student's number of levels "
                    "and strides (num_feature_levels, neck)"
                )
            index, found = _rows_of(features, queries)
            contents.append(self.teacher.query_map(own)[index] * found[:, None])
        return dict(query=torch.stack(contents), reference_points=self.places["reference_points"], dn_mask=None)

    def decode(self, feats: Sequence[Tensor], data_samples: list) -> Tensor:
        # The teacher's decoder drops the queries between layers that the student dropped.
        heads = self.teacher.cache_dict["num_heads"]

        def select(*args, **kwargs) -> Tensor:
            return ~self._selection(argument(args, kwargs, 3, "layer_index")).repeat_interleave(heads, 0)

        with shadowed(self.teacher.decoder, "select_distinct_queries", select):
            return super().decode(feats, data_samples)

    def clear(self) -> None:
        super().clear()
        self._features = []


@register_adapter("DDQDETRHead")
class DDQAdapter(QueryAdapter):
    """DDQ-DETR, both detectors."""

    row_description = "distinct queries, a set per decoder layer"

    def bind(self, student: nn.Module, teacher: nn.Module) -> None:
        super().bind(student, teacher)
        self._queries = self._shared = DDQQueries(student, teacher)
        self._compared = False

    def _matching_part(self, total: int) -> slice:
        return self._queries.matching(total)

    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        assert self._output is not None
        logits = self._output[0]
        rows = self._queries.decode(teacher_feats, data_samples)
        kept = [self._kept(i) for i in range(len(logits))]
        with torch.enable_grad():
            mine = [x.flatten(0, 1)[index] for x, index in zip(logits, kept, strict=True)]
        found = [self.entry(i, f"d{i}", x, rows[i].flatten(0, 1)[kept[i]]) for i, x in enumerate(mine)]
        self._compared = True
        return found

    def _kept(self, layer: int) -> Tensor:
        mask = self._queries.kept(layer).flatten()
        if not self._compared:  # `entry` compares them with the loss's rows, in the first step: it waits for the device
            return mask.nonzero().squeeze(1)
        # A query that was dropped has no target, so the targets count those that were kept without asking the device.
        return true_rows(mask, len(self._targets[layer][0]))


def _rows_of(table: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Find rows in the table that they were copied from.

    Args:
        table: ``(P, c)``.
        rows: ``(Q, c)``, each a copy of a row of the table, or padding; under autocast a copy in fp32.

    Returns:
        Index ``(Q,)`` into the table, and ``(Q,)`` bool, False for padding. A row is known by its first 64 bits.
    """
    table_keys, order = _keys(table).sort()
    keys = _keys(rows.to(table.dtype))
    place = torch.searchsorted(table_keys, keys).clamp(max=len(table_keys) - 1)
    return order[place], table_keys[place] == keys


def _keys(rows: Tensor) -> Tensor:
    return rows[:, : 8 // rows.element_size()].contiguous().view(torch.int64).squeeze(1)
