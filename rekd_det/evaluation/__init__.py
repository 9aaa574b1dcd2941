"""Metrics."""

from mmdet.registry import METRICS

try:
    from mmdet.evaluation import FasterCocoMetric  # the maintained fork of mmdet has registered its own
except ImportError:
    from .faster_coco_metric import FasterCocoMetric

    METRICS.register_module(module=FasterCocoMetric)

__all__ = ["FasterCocoMetric"]
