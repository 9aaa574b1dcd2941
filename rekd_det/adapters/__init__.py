"""Head adapters: which rows a head classifies, and how a teacher classifies the same rows."""

from .base import ADAPTERS, HeadAdapter, build_adapter, classification_head, register_adapter
from .rcnn import CascadeAdapter, HTCAdapter, RCNNAdapter

__all__ = [
    "ADAPTERS",
    "CascadeAdapter",
    "HTCAdapter",
    "HeadAdapter",
    "RCNNAdapter",
    "build_adapter",
    "classification_head",
    "register_adapter",
]
