"""The Runner and what makes its resume exact."""

from .rekd_runner import ReKDRunner

__all__ = ["ReKDRunner"]
