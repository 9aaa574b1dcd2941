"""The algorithm that a config names as its model."""

from .rekd_distill import ReKDDistill

__all__ = ["ReKDDistill"]
