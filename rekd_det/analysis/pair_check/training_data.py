"""What a config says of its training data: the categories and the size of the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import Config

from rekd_det.apis.class_names import read_names
from rekd_det.utils.config_types import default_scope, type_class
from rekd_det.utils.pair_config import classifies_images


def data_classes(cfg: Config) -> tuple[str, ...] | None:
    """The classes of the training data by label, also those of its data set's class; None if neither says them."""
    dataset: Any = (cfg.get("train_dataloader") or {}).get("dataset")
    while isinstance(dataset, Mapping):
        names = (dataset.get("metainfo") or {}).get("classes")
        if names is None:
            kind = dataset.get("type")
            if isinstance(kind, str) and "." not in kind:
                kind = f"{default_scope(cfg)}.{kind}"
            names = getattr(type_class(kind, DATASETS), "METAINFO", {}).get("classes")
        if names is not None:
            return tuple(read_names(names, "train_dataloader.dataset"))
        dataset = _inside(dataset)
    return None


def _inside(wrapper: Mapping) -> Any:
    """The data set in a wrapper's config, or the first of those that it joins; None if it wraps nothing."""
    return wrapper.get("dataset") or next(iter(wrapper.get("datasets") or []), None)


def train_scale(cfg: Config) -> tuple[tuple[int, int], bool]:
    """(width, height) that the training pipeline resizes or crops to at last, and whether it says so at all."""
    dataset: Any = (cfg.get("train_dataloader") or {}).get("dataset") or {}
    # A wrapper that mixes images has a pipeline of its own, which comes last.
    while isinstance(dataset, Mapping) and "pipeline" not in dataset:
        dataset = _inside(dataset)
    found = None
    for step in (dataset or {}).get("pipeline") or []:
        if not isinstance(step, Mapping):
            continue
        cropped = "crop_size" in step and step.get("crop_type", "absolute") == "absolute"
        scale = step["crop_size"] if cropped else step.get("scale")
        scale = (scale, scale) if isinstance(scale, int) and classifies_images(cfg) else scale
        if isinstance(scale, (tuple, list)) and len(scale) == 2 and all(isinstance(x, int) for x in scale):
            found = max(scale), min(scale)
    return found or ((224, 224) if classifies_images(cfg) else (1333, 800)), found is not None
