"""Check the entries of a COCO-format annotation file one by one: images, categories, boxes and masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pycocotools.mask import decode

from rekd_det.utils.errors import InputError

#: of an image, in pixels: more than OpenCV reads
_LONGEST_SIDE = 2**20


def check_images(images: list) -> dict[Any, tuple[int, int]]:
    """The (height, width) in pixels of each image by its id.

    Raises:
        InputError: for an image without a size, a name or an id of its own.
    """

    def fault(image: dict) -> str | bool:
        for name in ("height", "width"):
            if not _is_number(image.get(name), 1, _LONGEST_SIDE):
                return f"has {name} {image.get(name)!r:.80}: expected a number of pixels"
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            return f"has file_name {image.get('file_name')!r:.80}: expected the image's name"
        return True

    check_entries(images, "image", fault)
    return {image["id"]: (int(image["height"]), int(image["width"])) for image in images}


def check_entries(entries: list, name: str, check: Callable[[dict], str | bool]) -> None:
    """Check that every entry is a dict with a unique id that passes ``check``, which returns True or what is wrong.

    Raises:
        InputError: for the first that is not or does not.
    """
    seen = set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{name} number {index} is {entry!r:.80}: expected a dict")
        number = entry.get("id")
        if not isinstance(number, (int, str)) or isinstance(number, bool) or number in seen:
            raise InputError(f"{name} number {index} has id {number!r:.80}: expected a number of its own")
        seen.add(number)
        fault = check(entry)
        if fault is not True:
            raise InputError(f"{name} {number} {fault}")


def annotation_fault(ann: dict, sizes: Mapping, categories: set, masks: bool) -> str | bool:
    """What is wrong with an annotation, or True."""
    if not _is_in(ann.get("category_id"), categories):
        return f"has category_id {ann.get('category_id')!r:.80}, which `categories` does not list"
    if not isinstance(ann.get("image_id"), (int, str)):
        return f"has image_id {ann.get('image_id')!r:.80}: expected an image's id"
    if not _is_box(ann.get("bbox")):
        return (
            f"has bbox {ann.get('bbox')}: expected [x, y, width, height], finite and not negative. Correct or remove it"
        )
    if not _is_number(ann.get("area"), -math.inf, math.inf):
        return f"has area {ann.get('area')!r:.80}: expected a number"
    if not _is_in(ann.get("iscrowd", 0), {0, 1}):
        return f"has iscrowd {ann.get('iscrowd')!r:.80}: expected 0 or 1"
    size = sizes.get(ann["image_id"])  # None: of an image that was taken out, which is never read
    if masks and size and not _is_mask(ann.get("segmentation"), size):
        return f"has segmentation {ann.get('segmentation')!r:.80}: expected polygons [[x, y, x, y, ...]] or an RLE"
    return True


def _is_in(value: Any, known: Collection) -> bool:
    return isinstance(value, (int, str)) and value in known


def _is_number(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and low <= value <= high and abs(value) < 2**53  # NaN compares with nothing


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    return all(_is_number(x, -_LONGEST_SIDE, _LONGEST_SIDE) for x in box) and min(box[2:]) >= 0


def _is_mask(mask: Any, size: tuple[int, int]) -> bool:
    if isinstance(mask, list) and mask:
        return all(
            isinstance(p, list) and p and all(_is_number(x, -_LONGEST_SIDE, _LONGEST_SIDE) for x in p) for p in mask
        )
    if not isinstance(mask, dict) or mask.get("size") != list(size):
        return False
    counts = mask.get("counts")
    if isinstance(counts, list):
        return all(_is_number(n, 0, 2**32 - 1) and isinstance(n, int) for n in counts) and sum(counts) == math.prod(
            size
        )
    try:
        return isinstance(counts, str) and decode({"size": list(size), "counts": counts.encode()}).shape == size
    except ValueError:
        return False
