"""The first images of a COCO-format data set, for a quick evaluation."""

from __future__ import annotations

import json
import os
import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from rekd_det.utils.errors import InputError


def limit_test_images(cfg: Config, count: int, folder: str) -> int:
    """Let a config test on the first images only, with the annotations of these alone.

    Args:
        cfg: changed in place; its test set must be one COCO-format annotation file.
        count: number of images, >= 1.
        folder: where the shortened annotation file is written.

    Returns:
        The number of images that are left.

    Raises:
        InputError: if there is no such annotation file, or the count is not positive.
    """
    if count < 1:
        raise InputError(f"--limit must be at least 1, got {count}")
    dataset: Any = cfg.test_dataloader.dataset
    while isinstance(dataset, Mapping) and "dataset" in dataset:
        dataset = dataset["dataset"]
    path = osp.join(dataset.get("data_root") or "", dataset.get("ann_file") or "")
    if not osp.isfile(path):
        raise InputError(f"--limit: test_dataloader.dataset.ann_file: '{path}' is no file; leave --limit out")
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise InputError(f"--limit: '{path}' is not in COCO's format (no `images` and `annotations`)")
    content["images"] = content["images"][:count]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    short = osp.abspath(osp.join(folder, "first_images.json"))
    with open(short, "w", encoding="utf-8") as file:
        json.dump(content, file)
    if dataset.get("data_root"):
        dataset["data_root"] = osp.abspath(dataset["data_root"]) + os.sep
    dataset["ann_file"] = short
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    for evaluator in evaluators:
        if "ann_file" in evaluator:
            evaluator["ann_file"] = short
    return len(content["images"])
