"""Pictures for people: images with boxes and names, tiled into a sheet."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

_COLOURS = (
    (230, 60, 60),
    (60, 180, 60),
    (30, 110, 220),
    (230, 170, 30),
    (190, 60, 190),
    (40, 180, 180),
)


def draw_boxes(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    names: Sequence[str],
    colours: Sequence[int],
    scale: int,
    title: str,
) -> np.ndarray:
    """Enlarge an image and draw boxes with their names, by mmdet's visualizer.

    Args:
        image: uint8 BGR ``(H, W, 3)``.
        boxes: ``(x1, y1, x2, y2)`` in pixels of ``image``.
        names: one caption per box.
        colours: one colour number per box (say, its family).
        scale: factor of enlargement.
        title: text for the top left corner.

    Returns:
        A new uint8 image ``(H * scale, W * scale, 3)``.
    """
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    visualizer = DetLocalVisualizer(line_width=1)
    # Each box is a class of its own, so that its caption and its colour are free.
    visualizer.dataset_meta = dict(classes=list(names), palette=[_COLOURS[c % len(_COLOURS)] for c in colours])
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4) * scale, labels=torch.arange(len(boxes))
    )
    visualizer.add_datasample("", canvas[..., ::-1], sample, draw_pred=False)
    if title:
        visualizer.draw_texts(
            title, np.array([2.0, 2.0]), font_sizes=10, colors="white", bboxes=dict(facecolor="black")
        )
    return np.ascontiguousarray(visualizer.get_image()[..., ::-1])


def tile(images: Sequence[np.ndarray], columns: int, gap: int = 6) -> np.ndarray:
    """Put images of one size side by side, ``columns`` in a row, on white."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y = gap + i // columns * (height + gap)
        x = gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet
