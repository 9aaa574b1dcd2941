"""A pair and its images without randomness, as every analysis of a teacher needs them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import set_random_seed
from torch.utils.data import DataLoader, Dataset, Subset

from rekd_det.apis.preflight import check_data
from rekd_det.utils.checkpoint import load_checkpoint_file, load_weights
from rekd_det.utils.checkpoint_content import strip_student_prefix, weights_of
from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.config_types import default_scope, type_name
from rekd_det.utils.dataset_configs import plain_datasets
from rekd_det.utils.errors import InputError
from rekd_det.utils.fixed_layers import fix_norms_and_dropout
from rekd_det.utils.pair_config import classifies_images, model_config, require_pair

SEED = 0


def build_pair(cfg: Config, checkpoint: str | None, device: str) -> Any:
    """Build the :class:`rekd_det.models.algorithms.ReKDDistill` of a config, with fixed norms and no dropout.

    Its modules are in training mode otherwise, because only then do all heads compute their losses, and with them the
    rows that training would see. The teacher is in fp32 whatever ``model.teacher_dtype`` says: an analysis asks it for
    boxes and scores as well, which low precision spoils.

    Args:
        cfg: the config of a pair.
        checkpoint: the student's weights, plain or distilled. None starts it as a training would.
        device: where the models go.

    Raises:
        InputError: if the config is not a pair, or it distils no logits.
        CheckpointError: if the checkpoint does not fit.
    """
    require_pair(cfg)
    init_default_scope(default_scope(cfg))
    torch.manual_seed(SEED)
    config = model_config(cfg)
    config.pop("teacher_dtype", None)
    model = MODELS.build(config)
    if model.distiller.loss is None:
        raise InputError("this pair distils no classification logits (model.distiller.loss=None)")
    checkpoint = checkpoint or cfg.get("load_from")
    if checkpoint is None:
        model.init_weights()
    else:
        loaded = load_checkpoint_file(checkpoint)
        weights = strip_student_prefix(weights_of(loaded))
        load_weights(model.student, weights, f"checkpoint '{checkpoint}'")
    model.to(device).train()
    fix_norms_and_dropout(model)
    return model


def quiet() -> None:
    """Keep mmengine's log to warnings: it has a paragraph for every parameter of a new model."""
    MMLogger.get_instance("analysis", log_level="WARNING")


def check_images(cfg: Config, split: str) -> None:
    """Check, before a model is built, that a split's images and annotations are there. No evaluator is needed.

    Raises:
        InputError: if the config has no such data set, or a file or a folder is missing.
    """
    for key in ("train_dataloader", "val_dataloader"):
        if not isinstance(cfg.get(key), Mapping):
            raise InputError(f"the config has no `{key}`")
    check_data(Config({f"{split}_dataloader": cfg[f"{split}_dataloader"], f"{split}_cfg": {}}), (split,))


def build_images(cfg: Config, split: str) -> Dataset:
    """The data set of a split, with its ground truth but without random augmentation.

    The images pass the *validation* pipeline. The annotations are loaded as in training (masks, if the detector learns
    them) and before the image is resized, so that boxes are in pixels of what the detectors see.

    Args:
        cfg: the config.
        split: 'train' or 'val'.

    Raises:
        InputError: if the training pipeline loads no annotations.
    """
    first: Any = next((plain for _, plain in plain_datasets(cfg.val_dataloader.dataset)), {})
    pipeline = list(first.get("pipeline") or [])
    if not classifies_images(cfg):  # whose labels come with the images
        nodes = config_nodes(cfg.train_dataloader.dataset)
        loading = next((node for node in nodes if type_name(node.get("type")) == "LoadAnnotations"), None)
        if loading is None:
            raise InputError("train_dataloader.dataset: no pipeline in it has a LoadAnnotations")
        pipeline = [t for t in pipeline if type_name(t["type"]) != "LoadAnnotations"]
        pipeline.insert(1, loading)  # behind the image
    with DefaultScope.overwrite_default_scope(default_scope(cfg)):
        return DATASETS.build(_plain(cfg[f"{split}_dataloader"].dataset, pipeline))


def class_names(images: Any, num: int) -> list[str]:
    """Names of ``num`` categories, numbers where the data set has no names for them."""
    names = list(images.metainfo.get("classes") or ())[:num]
    return names + [f"category {i}" for i in range(len(names), num)]


def choose(images: Any, limit: int | None) -> Subset:
    """``limit`` images (all, where None) in even steps over the whole data set."""
    total = len(images)
    count = total if limit is None else min(limit, total)
    return Subset(images, np.linspace(0, total - 1, count).round().astype(int).tolist())


def batches(model: Any, images: Subset, batch_size: int, workers: int) -> Iterator[dict]:
    """Preprocessed batches ``dict(inputs=(B, 3, H, W), data_samples=[...])``, in order."""
    loader = DataLoader(images, batch_size, num_workers=workers, collate_fn=pseudo_collate)
    preprocessor = model.data_preprocessor
    for data in loader:
        batch = preprocessor(data, False)  # without random augmentation
        # In this mode it pads the images alone, and the losses on masks take them for as large.
        if getattr(preprocessor, "pad_mask", False):
            preprocessor.pad_gt_masks(batch["data_samples"])
        if getattr(preprocessor, "pad_seg", False):
            preprocessor.pad_gt_sem_seg(batch["data_samples"])
        for sample in batch["data_samples"]:
            # A student of mixed images gets its labels one-hot; here nothing is mixed, and each image has one.
            if "gt_score" in sample and "gt_label" in sample and sample.gt_label.numel() == 1:
                del sample.gt_score
        yield batch


def seed_samplers() -> None:
    """Let the heads' random samplers choose the same rows at each call of an analysis."""
    set_random_seed(SEED)


def _plain(dataset: Mapping, pipeline: list) -> ConfigDict:
    """A data set's config without the wrappers that mix or repeat images, and with another pipeline."""
    plain = copy.deepcopy(ConfigDict(dataset))
    while isinstance(plain.get("dataset"), Mapping):
        plain = plain.dataset
    if "datasets" in plain:
        plain.datasets = [_plain(d, pipeline) for d in plain.datasets]
    else:
        plain.pipeline = pipeline
    return plain
