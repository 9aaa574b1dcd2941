"""Heads that classify whole images: MMPretrain's. Imported where a model of MMPretrain is distilled, and only there."""

from . import classification  # noqa: F401 - it registers
