"""Head adapters: which rows a head classifies, and how a teacher classifies the same rows."""

from . import dense, dense_output, dense_quality, heatmap, rcnn_variants, solo, yolo  # noqa: F401 - they register
from .base import ADAPTERS, HeadAdapter, build_adapter, classification_head, register_adapter
from .ddq import DDQAdapter
from .mask_query import MaskQueryAdapter
from .query import QueryAdapter
from .query_rcnn import QueryRCNNAdapter
from .rcnn import CascadeAdapter, HTCAdapter, RCNNAdapter

__all__ = [
    "ADAPTERS",
    "CascadeAdapter",
    "DDQAdapter",
    "HTCAdapter",
    "HeadAdapter",
    "MaskQueryAdapter",
    "QueryAdapter",
    "QueryRCNNAdapter",
    "RCNNAdapter",
    "build_adapter",
    "classification_head",
    "register_adapter",
]
