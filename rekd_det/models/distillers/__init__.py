"""Computes the distillation losses from the rows of a step."""

from .rekd_distiller import ReKDDistiller

__all__ = ["ReKDDistiller"]
