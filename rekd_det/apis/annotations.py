"""Look into a COCO-format annotation file for what mmdet would drop in silence or fail on later."""

from __future__ import annotations

import json
import math
import os.path as osp
import warnings
from typing import Any

from rekd_det.utils.errors import InputError

#: larger files take many seconds to read twice; they are left to the data set
LARGEST_BYTES = 64 * 2**20


class AnnotationError(InputError):
    """An annotation file that can't be trained on or evaluated against."""


def check_annotations(path: str, key: str) -> None:
    """Check one annotation file; files larger than 64 MiB are not looked into.

    Args:
        path: a local JSON file.
        key: the config key that names it, for messages.

    Raises:
        AnnotationError: if it is no COCO-format JSON, has no object, or has boxes that are none.
    """
    if osp.getsize(path) > LARGEST_BYTES:
        return
    try:
        with open(path, encoding="utf-8") as file:
            content: Any = json.load(file)
    except ValueError as error:
        raise AnnotationError(f"{key}: '{path}' is no JSON file ({error})") from error
    missing = [k for k in ("images", "annotations", "categories") if not isinstance(_get(content, k), list)]
    if missing:
        raise AnnotationError(f"{key}: '{path}' is not in COCO's format: it has no list `{'`, `'.join(missing)}`")
    if not content["annotations"]:
        raise AnnotationError(f"{key}: '{path}' has {len(content['images'])} images and no object: nothing to learn")
    categories = {c.get("id") for c in content["categories"]}
    degenerate = []
    for ann in content["annotations"]:
        if ann.get("category_id") not in categories:
            raise AnnotationError(
                f"{key}: '{path}': annotation {ann.get('id')} has category_id {ann.get('category_id')}, which "
                "`categories` does not list"
            )
        if not _is_box(ann.get("bbox")):
            raise AnnotationError(
                f"{key}: '{path}': annotation {ann.get('id')} has bbox {ann.get('bbox')}: expected [x, y, width, "
                "height], finite and not negative. Correct or remove it"
            )
        if min(ann["bbox"][2:]) < 1:
            degenerate.append(ann.get("id"))
    if len(degenerate) == len(content["annotations"]):
        raise AnnotationError(f"{key}: '{path}': all boxes are narrower than a pixel; are they relative to the image?")
    if degenerate:
        warnings.warn(
            f"{key}: {len(degenerate)} boxes are narrower than a pixel and will be left out, e.g. of annotation "
            f"{degenerate[0]}",
            stacklevel=2,
        )


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, (int, float)) for x in box):
        return False
    return all(math.isfinite(x) for x in box) and min(box[2:]) >= 0
