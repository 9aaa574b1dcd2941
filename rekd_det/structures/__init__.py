"""The data that passes between head adapters, losses and analyses."""

from .aligned_logits import AlignedLogits
from .logit_meaning import LogitMeaning

__all__ = ["AlignedLogits", "LogitMeaning"]
