"""Check a COCO-format annotation file for entries that mmdet would drop silently or fail on later."""

from __future__ import annotations

import json
import math
import os
import os.path as osp
import warnings
from collections.abc import Mapping
from typing import Any

from rekd_det.apis.class_names import ClassNames, fault_in_names
from rekd_det.apis.coco_entries import annotation_fault, check_entries, check_images
from rekd_det.utils.errors import InputError, listing

#: larger files are not checked, because reading them twice takes many seconds
LARGEST_BYTES = 64 * 2**20
#: share of the boxes that may reach beyond their images without a warning
_FEW = 0.1


def check_annotations(
    path: str,
    key: str,
    masks: bool = False,
    images: str | None = None,
    objects: bool = True,
    classes: ClassNames | None = None,
    polygons: bool = False,
) -> dict[Any, str] | None:
    """Check one annotation file; files larger than 64 MiB are not checked.

    Args:
        path: a local JSON file.
        key: the config key that names it, for messages.
        masks: whether the segmentations are read too.
        images: the local folder that the images' names start at; None: not looked into.
        objects: whether the file must have annotations. A test set's need not.
        classes: what the config names, which must be in the file in the same order; None: not compared.
        polygons: whether objects are ignored whose mask is no polygon (``LoadAnnotations(poly2mask=False)``).

    Returns:
        The images' file names by their ids; None of a file that is not checked.

    Raises:
        InputError: if it is not COCO-format JSON, has no object that counts, has invalid entries, or has other
            classes.
    """
    if osp.getsize(path) > LARGEST_BYTES:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            content: Any = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{key}: '{path}' is not a JSON file ({error})") from error
    lists = ("images", "annotations", "categories") if objects else ("images", "categories")
    missing = [k for k in lists if not (isinstance(content, dict) and isinstance(content.get(k), list))]
    if missing:
        raise InputError(f"{key}: '{path}' is not in COCO's format: it has no list `{'`, `'.join(missing)}`")
    annotations = content.get("annotations", [])
    if objects and not (annotations and content["images"]):
        purpose = "learn" if key.startswith("train") else "evaluate against"
        count = f"{len(annotations)} objects" if annotations else "no object"
        raise InputError(f"{key}: '{path}' has {len(content['images'])} images and {count}: nothing to {purpose}")
    try:
        sizes = check_images(content["images"])
        check_entries(content["categories"], "category", lambda c: isinstance(c.get("name"), str) or "has no name")
        names_fault = classes and fault_in_names(classes, [c["name"] for c in content["categories"]])
        if names_fault:
            raise InputError(names_fault)
        categories = {c["id"] for c in content["categories"]}
        check_entries(annotations, "annotation", lambda ann: annotation_fault(ann, sizes, categories, masks))
        if images is not None:
            _check_files(content["images"], images)
        if objects:
            _check_objects(annotations, sizes, polygons)
    except InputError as fault:
        raise InputError(f"{key}: '{path}': {fault}") from fault
    degenerate = [ann["id"] for ann in annotations if min(ann["bbox"][2:]) < 1 or ann["area"] <= 0]
    if annotations and len(degenerate) == len(annotations):
        raise InputError(f"{key}: '{path}': all boxes are narrower than a pixel; are they relative to the image?")
    outside = [ann["id"] for ann in annotations if _is_outside(ann, sizes)]
    if len(outside) > _FEW * len(annotations):
        warnings.warn(
            f"{key}: {len(outside)} of {len(annotations)} boxes reach beyond their image, e.g. of annotation "
            f"{outside[0]}: COCO's are [x, y, width, height], not [x1, y1, x2, y2]",
            stacklevel=2,
        )
    unnamed = {c["id"]: c["name"] for c in content["categories"] if classes and c["name"] not in classes.names}
    left_out = sum(ann["category_id"] in unnamed for ann in annotations)
    if classes and left_out:
        warnings.warn(
            f"{key}: {left_out} of {len(annotations)} objects will be left out, whose categories {classes.key} does "
            f"not name: {listing(unnamed.values())}",
            stacklevel=2,
        )
    if degenerate:
        warnings.warn(
            f"{key}: {len(degenerate)} boxes are narrower than a pixel or have no area and will be left out, e.g. of "
            f"annotation {degenerate[0]}",
            stacklevel=2,
        )
    return {image["id"]: image["file_name"] for image in content["images"]}


def _check_objects(annotations: list, sizes: Mapping, polygons: bool) -> None:
    """Raise InputError if mmdet would leave out or ignore every object, without a word."""
    known = [ann for ann in annotations if ann["image_id"] in sizes]
    if not known:
        raise InputError(
            f"no object belongs to one of its images: image_id is {annotations[0]['image_id']!r} in annotation "
            f"{annotations[0]['id']}, and the images' ids are {listing(sizes)}"
        )
    counting = [ann for ann in known if not ann.get("iscrowd")]
    if not counting:
        raise InputError(f"all {len(known)} objects are crowds (iscrowd=1), which are ignored")
    if not polygons:
        return
    ignored = sum(not isinstance(ann.get("segmentation"), list) for ann in counting)
    told = "masks are no polygons, and LoadAnnotations(poly2mask=False) ignores such objects: set poly2mask=True"
    if ignored == len(counting):
        raise InputError(f"all {ignored} {told}")
    if ignored:
        warnings.warn(f"{ignored} of {len(counting)} {told}", stacklevel=3)


def _is_outside(ann: Mapping, sizes: Mapping) -> bool:
    """Whether a box ends more than a pixel behind its image."""
    height, width = sizes.get(ann["image_id"], (math.inf, math.inf))
    x, y, w, h = ann["bbox"]
    return x + w > width + 1 or y + h > height + 1


def _check_files(images: list, folder: str) -> None:
    """Check that every image exists. A folder is listed once, which is faster than a check of each file."""
    names: dict[str, set[str]] = {}
    missing = []
    for image in images:
        parent, name = osp.split(osp.join(folder, image["file_name"]))
        if parent not in names:
            names[parent] = set(os.listdir(parent)) if osp.isdir(parent) else set()
        if name not in names[parent]:
            missing.append(osp.join(parent, name))
    if missing:
        raise InputError(f"{len(missing)} of its images do not exist, e.g. '{missing[0]}'")
