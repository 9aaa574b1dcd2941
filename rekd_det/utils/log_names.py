"""Which of a model's outputs are losses."""

from __future__ import annotations


def is_loss(name: str) -> bool:
    """Whether a training minimises what ``model.loss()`` returns under this name: mmengine's ``parse_losses`` rule."""
    return "loss" in name
