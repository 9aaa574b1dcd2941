"""Contact sheets of a data set: what is annotated in its images, and what a detector finds there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from rekd_det.datasets.synthetic.draw import draw_boxes, tile

_PANEL_WIDTH = 384
_MIN_SCORE = 0.3


class _Split:
    """One split of a COCO-format folder, ready to be drawn."""

    def __init__(self, root: Path, split: str) -> None:
        content = json.loads((root / f"annotations/instances_{split}2017.json").read_text())
        self.folder = root / f"{split}2017"
        self.images: list[dict] = content["images"]
        self.categories = {c["id"]: c for c in content["categories"]}
        self.families = list(dict.fromkeys(c["supercategory"] for c in content["categories"]))
        self.annotations = _by_image(content["annotations"])

    def panel(self, entry: Mapping, objects: Iterable[Mapping], title: str = "") -> np.ndarray:
        """The image of ``entry``, with boxes coloured by family; a score follows its name."""
        image = cv2.imread(str(self.folder / entry["file_name"]))
        boxes, names, colours = [], [], []
        for item in objects:
            x, y, width, height = item["bbox"]
            category = self.categories[item["category_id"]]
            score = f" {item['score']:.2f}" if "score" in item else ""
            boxes.append((x, y, x + width, y + height))
            names.append(category["name"] + score)
            colours.append(self.families.index(category["supercategory"]))
        scale = max(1, _PANEL_WIDTH // entry["width"])
        return draw_boxes(image, boxes, names, colours, scale, title)


def _by_image(objects: Iterable[Mapping]) -> dict[int, list[Mapping]]:
    grouped: dict[int, list[Mapping]] = {}
    for item in objects:
        grouped.setdefault(item["image_id"], []).append(item)
    return grouped


def contact_sheet(root: Path, count: int = 12) -> np.ndarray:
    """Draw the first ``count`` training images of the COCO-format folder ``root``.

    Returns:
        uint8 BGR image; boxes are coloured by family and named by category.
    """
    data = _Split(root, "train")
    panels = [data.panel(e, data.annotations.get(e["id"], [])) for e in data.images[:count]]
    return tile(panels, columns=4)


def comparison_sheet(root: Path, detections: Iterable[Mapping], count: int = 8) -> np.ndarray:
    """Draw the first ``count`` validation images twice: as annotated, and as detected.

    Args:
        root: the COCO-format folder.
        detections: COCO's results: ``image_id``, ``category_id``, ``bbox`` (x, y, w, h), ``score``. Those of a score
            below 0.3 are left out.

    Returns:
        uint8 BGR image with two such pairs in a row.
    """
    data = _Split(root, "val")
    found = _by_image(d for d in detections if d["score"] >= _MIN_SCORE)
    panels = []
    for entry in data.images[:count]:
        panels.append(data.panel(entry, data.annotations.get(entry["id"], []), "ground truth"))
        panels.append(data.panel(entry, found.get(entry["id"], []), "detected"))
    return tile(panels, columns=4)
