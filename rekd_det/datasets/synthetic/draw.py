"""Pictures for people: images with boxes and names, tiled into a sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

_COLOURS = (
    (60, 60, 230),
    (60, 180, 60),
    (220, 110, 30),
    (30, 170, 230),
    (190, 60, 190),
    (180, 180, 40),
)


def draw_boxes(
    image: np.ndarray,
    boxes: Iterable[Sequence[float]],
    names: Iterable[str],
    colours: Iterable[int],
    scale: int = 3,
    title: str = "",
) -> np.ndarray:
    """Enlarge an image and draw boxes with their names.

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
    for box, name, number in zip(boxes, names, colours, strict=True):
        colour = _COLOURS[number % len(_COLOURS)]
        x1, y1, x2, y2 = (round(float(v) * scale) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, 1)
        _caption(canvas, name, x1, max(y1, 11), colour)
    if title:
        _caption(canvas, title, 0, canvas.shape[0] - 1, (40, 40, 40))
    return canvas


def _caption(canvas: np.ndarray, text: str, left: int, bottom: int, colour: tuple[int, int, int]) -> None:
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.36
    (width, height), baseline = cv2.getTextSize(text, font, size, 1)
    left = max(0, min(left, canvas.shape[1] - width))
    cv2.rectangle(canvas, (left, bottom - height - baseline), (left + width, bottom), colour, -1)
    cv2.putText(canvas, text, (left, bottom - baseline + 1), font, size, (255, 255, 255), 1, cv2.LINE_AA)


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
