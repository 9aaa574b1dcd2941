"""The table of supported heads: who serves each, what its rows are and how its logits become probabilities."""

from __future__ import annotations

from typing import NamedTuple

from rekd_det.models.adapters.base import ADAPTERS


class SupportedHead(NamedTuple):
    """One line of the table.

    ``activation`` is the default of the distillation loss on this head. A head whose loss is configured otherwise (a
    RetinaNet with softmax, V3Det's sigmoid boxes) says so when the pair is built.
    """

    head: str
    adapter: str
    activation: str
    rows: str


def support_table() -> list[SupportedHead]:
    """All supported heads, by name."""
    lines = [SupportedHead(h.__name__, a.__name__, a.activation, a.row_description) for h, a in ADAPTERS.items()]
    return sorted(lines)
