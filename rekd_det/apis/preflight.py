"""Checks that cost milliseconds, made before a model is built.

They find what would fail minutes later, or silently do nothing, and report it in one message.
"""

import os
import os.path as osp
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmengine.config import Config
from torch.utils.data import DataLoader

from rekd_det.apis.annotations import check_annotations
from rekd_det.apis.class_names import class_names, reads_as_coco
from rekd_det.apis.evaluator_options import evaluators_of, is_coco
from rekd_det.apis.head_classes import check_class_weights, check_head_classes
from rekd_det.apis.mask_prediction import check_masks_loaded
from rekd_det.apis.xml_classes import check_xml_classes, reads_as_xml
from rekd_det.utils.config_types import type_name
from rekd_det.utils.dataset_configs import plain_datasets
from rekd_det.utils.errors import InputError
from rekd_det.utils.options import check_known, options_of

#: MMPretrain's data sets that fetch themselves where they are missing
_DOWNLOADING = {"CIFAR10", "CIFAR100", "FashionMNIST", "MNIST"}
#: what mmengine takes from a data loader's config, and what torch's class takes
_LOADER_OPTIONS = {"_scope_", "type", "num_batch_per_epoch", *options_of(DataLoader)}


def check_data(cfg: Config, splits: Iterable[str]) -> None:
    """Check that the annotation files and image folders of some splits exist, and what is in COCO's files.

    Only what a config states as local paths is checked; a data set behind a storage backend is
    left to it.

    Args:
        cfg: The config.
        splits: Of ``'train'``, ``'val'``, ``'test'``; one that the config does not use is skipped.

    Raises:
        InputError: If a path is missing, an evaluator has other images than its data set, or a head another
            number of classes; it names the config key.
        InputError: If a file of COCO's format can't be used, or the files have other classes than the config.
    """
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if not isinstance(loader, Mapping) or cfg.get(f"{split}_cfg") is None:
            continue
        if not loader.get("dataset"):
            raise InputError(
                f"{split}_dataloader has no dataset. To leave this part out, set {split}_dataloader, {split}_cfg and "
                "the evaluator that belongs to them to None"
            )
        check_known(f"{split}_dataloader", loader, _LOADER_OPTIONS)
        datasets = list(plain_datasets(loader["dataset"], f"{split}_dataloader.dataset"))
        if split == "train":
            check_class_weights(cfg.get("model"))
            check_masks_loaded(cfg.get("model"), datasets)
        checked = dict(filter(None, (_check_dataset(key, dataset, split) for key, dataset in datasets)))
        for key, dataset in datasets:
            if reads_as_coco(dataset) or reads_as_xml(dataset):
                check_head_classes(cfg.get("model"), class_names(dataset, key))
        for evaluator_key, evaluator in evaluators_of(cfg, split):
            key = f"{evaluator_key}.ann_file"
            ann_file = evaluator.get("ann_file")
            if not isinstance(ann_file, str) or not _is_local(ann_file, evaluator):
                continue
            if not osp.isfile(ann_file):
                raise InputError(f"{key}: '{ann_file}' does not exist; give its path with --cfg-options {key}=...")
            if ann_file in checked or not ann_file.endswith(".json") or not is_coco(evaluator):
                continue
            classes = None
            if datasets and reads_as_coco(datasets[0][1]) and not evaluator.get("sort_categories"):
                classes = class_names(datasets[0][1], datasets[0][0])
            masks = "segm" in (evaluator.get("metric") or "")
            images = check_annotations(ann_file, key, masks, objects=split != "test", classes=classes)
            if images is not None and not evaluator.get("format_only"):
                _check_same_images(key, ann_file, images, checked)


def check_work_dir(path: str, option: str = "--work-dir") -> None:
    """Create the folder that a tool writes to, and check that files can be written there.

    Args:
        path: The folder.
        option: Of the command line, which sets it.

    Raises:
        InputError: If not.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"folder '{path}' cannot be written ({error.strerror}): choose another with {option}"
        ) from error


def _check_same_images(key: str, ann_file: str, theirs: Mapping[Any, str], read: Mapping[str, Mapping | None]) -> None:
    """Raise InputError unless an evaluator's file has the images of the data set's files."""
    for path, images in read.items():
        for number, name in (images or {}).items():
            if osp.basename(theirs.get(number, "")) != osp.basename(name):
                raise InputError(
                    f"{key}: '{ann_file}' has no image '{name}' with id {number!r}, which the data set reads from "
                    f"'{path}', so detections would be compared with the objects of other images. Name the same file "
                    "for both"
                )


def _check_dataset(key: str, dataset: Mapping, split: str) -> tuple[str, dict[Any, str] | None] | None:
    """Returns the annotation file that was looked into, and its images' names by id where they are known."""
    if type_name(dataset.get("type")) in _DOWNLOADING and dataset.get("download", True):
        return None
    root, prefixes = dataset.get("data_root") or "", dataset.get("data_prefix") or {}
    paths: dict[str, tuple] = {"ann_file": (dataset.get("ann_file"), osp.isfile)}
    if isinstance(prefixes, str):  # of MMPretrain's, which look for a class in each folder
        paths["data_prefix"] = (prefixes, osp.isdir)
        prefixes = {}
    for name, prefix in prefixes.items():
        paths[f"data_prefix.{name}"] = (prefix, osp.isdir)
    if root and not any(path for path, _ in paths.values()):
        _check_exists(key, "data_root", root, dataset, osp.isdir)
    for name, (path, exists) in paths.items():
        if isinstance(path, str) and path:
            _check_exists(key, name, osp.join(root, path), dataset, exists)
    ann_file = dataset.get("ann_file")
    full = osp.join(root, ann_file) if isinstance(ann_file, str) else ""
    if not full or not _is_local(full, dataset):
        return None
    if reads_as_xml(dataset):
        check_xml_classes(dataset, key)
    if not full.endswith(".json") or not reads_as_coco(dataset):
        return None
    loading = [t for t in dataset.get("pipeline") or [] if isinstance(t, Mapping) and t.get("with_mask")]
    polygons = split == "train" and any(t.get("poly2mask") is False for t in loading)
    images = prefixes.get("img")
    images = osp.join(root, images) if isinstance(images, str) else None
    classes = class_names(dataset, key)
    found = check_annotations(
        full, f"{key}.ann_file", bool(loading), images, objects=split != "test", classes=classes, polygons=polygons
    )
    return full, found


def _check_exists(key: str, name: str, path: str, dataset: Mapping, exists: Callable[[str], bool]) -> None:
    if _is_local(path, dataset) and not exists(path):
        raise InputError(
            f"{key}.{name}: '{path}' does not exist. Put the data there, or name its place "
            f"with --cfg-options {key}.data_root=..."
        )


def _is_local(path: str, owner: Mapping) -> bool:
    return "://" not in path and not owner.get("backend_args")
