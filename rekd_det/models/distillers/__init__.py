"""From the rows of a step to its distillation losses."""

from .rekd_distiller import ReKDDistiller

__all__ = ["ReKDDistiller"]
