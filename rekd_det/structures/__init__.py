"""The data that passes between head adapters, losses and analyses."""

from .aligned_logits import AlignedLogits

__all__ = ["AlignedLogits"]
