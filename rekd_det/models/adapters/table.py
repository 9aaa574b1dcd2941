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


def support_table(package: str = "") -> list[SupportedHead]:
    """All supported heads, by name.

    Args:
        package: only the heads of this package, such as 'mmdet'. MMPretrain's are there once it was imported.
    """
    return sorted(
        SupportedHead(head.__name__, adapter.__name__, adapter.activation, adapter.row_description)
        for head, adapter in ADAPTERS.items()
        if head.__module__.startswith(package)
    )
