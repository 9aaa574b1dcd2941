"""Head adapters: which rows a head classifies, and how a teacher classifies the same rows."""

from .base import ADAPTERS, HeadAdapter, build_adapter, register_adapter
from .dense import dense, dense_output, dense_quality, gfl, heatmap, solo, yolo  # noqa: F401 - they register
from .query import ddq, mask_query  # noqa: F401 - they register
from .query.query import QueryAdapter
from .roi import query_rcnn, rcnn_variants  # noqa: F401 - they register
from .roi.rcnn import RCNNAdapter

__all__ = ["ADAPTERS", "HeadAdapter", "QueryAdapter", "RCNNAdapter", "build_adapter", "register_adapter"]
