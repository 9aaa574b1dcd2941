"""Heads that classify whole images: MMPretrain's. Imported where a model of MMPretrain is distilled, and only there."""

from .classification import ClassifierAdapter, ConformerAdapter, MultiLabelAdapter

__all__ = ["ClassifierAdapter", "ConformerAdapter", "MultiLabelAdapter"]
