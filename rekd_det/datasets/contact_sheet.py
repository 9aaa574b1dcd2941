"""A contact sheet: the first images of a data set, with what is annotated in them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from .draw import draw_boxes, tile


def contact_sheet(
    root: Path, split: str = "train", count: int = 12, columns: int = 4
) -> np.ndarray:
    """Draw the first ``count`` images of a split of the COCO-format folder ``root``.

    Returns:
        uint8 BGR image; boxes are coloured by family and named by category.
    """
    annotations = json.loads((root / f"annotations/instances_{split}2017.json").read_text())
    categories = {c["id"]: c for c in annotations["categories"]}
    families = list(dict.fromkeys(c["supercategory"] for c in annotations["categories"]))
    by_image: dict[int, list[dict]] = {}
    for annotation in annotations["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)

    panels = []
    for entry in annotations["images"][:count]:
        image = cv2.imread(str(root / f"{split}2017" / entry["file_name"]))
        found = by_image.get(entry["id"], [])
        kinds = [categories[a["category_id"]] for a in found]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in found)]
        colours = [families.index(k["supercategory"]) for k in kinds]
        scale = max(1, 384 // entry["width"])
        panels.append(draw_boxes(image, boxes, [k["name"] for k in kinds], colours, scale))
    return tile(panels, columns)
