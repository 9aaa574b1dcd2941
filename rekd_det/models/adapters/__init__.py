"""Head adapters: which rows a head classifies, and how a teacher classifies the same rows."""

from .base import ADAPTERS, HeadAdapter, build_adapter, classification_head, register_adapter
from .dense import dense, dense_output, dense_quality, gfl, heatmap, solo, yolo  # noqa: F401 - they register
from .query.ddq import DDQAdapter
from .query.mask_query import MaskQueryAdapter
from .query.query import QueryAdapter
from .roi import rcnn_variants  # noqa: F401 - it registers
from .roi.query_rcnn import QueryRCNNAdapter
from .roi.rcnn import CascadeAdapter, HTCAdapter, RCNNAdapter

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
