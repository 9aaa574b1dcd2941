"""Outlines of the shapes, as closed contours in a unit frame.

Legend: a *contour* is a float array ``(P, 2)`` of x, y points; an outline is a list of contours
that is filled by the even-odd rule (so a second contour inside the first one cuts a hole). Outlines
have a circumradius of about 1. ``v`` in ``[0, 1]`` varies the proportions within one category.
"""

from __future__ import annotations

import cv2
import numpy as np

Contour = np.ndarray
Outline = list[Contour]

_ARC_POINTS = 48
# Masks are rasterised at this multiple of the image's resolution and averaged down: integer
# arithmetic throughout, so that the coverage does not depend on the machine's float rounding.
_SUPERSAMPLING = 4
_FIXED_POINT_BITS = 4


def _polar(radius: np.ndarray | float, angle: np.ndarray) -> Contour:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def circle(radius: float = 1.0) -> Outline:
    return [_polar(radius, np.linspace(0.0, 2 * np.pi, _ARC_POINTS, endpoint=False))]


def ellipse(v: float) -> Outline:
    return [circle()[0] * (1.0, 0.48 + 0.17 * v)]


def ring(v: float) -> Outline:
    return circle() + circle(0.45 + 0.15 * v)


def crescent(v: float) -> Outline:
    """A disc less a smaller disc that is shifted along x."""
    shift, cut = 0.45 + 0.15 * v, 0.8
    x = (1.0 - cut**2 + shift**2) / (2 * shift)
    y = np.sqrt(1.0 - x**2)
    outer, inner = np.arctan2(y, x), np.arctan2(y, x - shift)
    rim = _polar(1.0, np.linspace(outer, 2 * np.pi - outer, _ARC_POINTS))
    bite = _polar(cut, np.linspace(2 * np.pi - inner, inner, _ARC_POINTS))
    bite[:, 0] += shift
    return [np.concatenate([rim, bite])]


def regular_polygon(sides: int) -> Outline:
    return [_polar(1.0, np.arange(sides) * (2 * np.pi / sides))]


def star(points: int, inner_radius: float) -> Outline:
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner_radius)
    return [_polar(radius, np.arange(2 * points) * (np.pi / points))]


def arms(count: int, half_width: float, length: float = 1.0) -> Outline:
    """``count`` bars that meet in the centre (4 arms make a plus), as one simple polygon."""
    notch = half_width / np.sin(np.pi / count)
    points = []
    for k in range(count):
        angle = 2 * np.pi * k / count
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        gap = angle + np.pi / count
        points += [
            length * along - half_width * across,
            length * along + half_width * across,
            notch * np.array([np.cos(gap), np.sin(gap)]),
        ]
    return [np.array(points)]


def box(half_width: float, half_height: float) -> Outline:
    w, h = half_width, half_height
    return [np.array([(-w, -h), (w, -h), (w, h), (-w, h)])]


def triangle(v: float) -> Outline:
    half = 0.55 + 0.15 * v
    return [np.array([(1.0, 0.0), (-0.7, half), (-0.7, -half)])]


def kite(v: float) -> Outline:
    half = 0.5 + 0.15 * v
    return [np.array([(1.0, 0.0), (-0.35, half), (-0.8, 0.0), (-0.35, -half)])]


def chevron(v: float) -> Outline:
    notch = -0.1 - 0.15 * v
    return [np.array([(1.0, 0.0), (-0.75, 0.7), (notch, 0.0), (-0.75, -0.7)])]


def arrow(v: float) -> Outline:
    shaft = 0.18 + 0.08 * v
    upper = [(1.0, 0.0), (0.15, 0.65), (0.15, shaft), (-0.9, shaft)]
    lower = [(x, -y) for x, y in reversed(upper[1:])]
    return [np.array(upper + lower)]


def place(outline: Outline, centre: tuple[float, float], radius: float, angle: float, stretch: float) -> Outline:
    """Stretch along y, rotate by ``angle`` (radians), scale to ``radius`` pixels, then move."""
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = radius * np.array([[cos, -sin], [sin, cos]]) @ np.diag([1.0, stretch])
    return [contour @ matrix.T + centre for contour in outline]


def _average_down(fine: np.ndarray, height: int, width: int) -> np.ndarray:
    n = _SUPERSAMPLING
    blocks = fine.reshape(height, n, width, n).astype(np.uint32)
    return (blocks.sum(axis=(1, 3)) // (n * n)).astype(np.uint8)


def rasterise(outline: Outline, height: int, width: int, border: int = 0) -> np.ndarray:
    """Coverage of each pixel by the filled outline.

    Args:
        outline: contours in pixels; the image spans x in ``[0, width]``, y in ``[0, height]``.
        border: if positive, only a rim of this many quarter-pixels inside the outline is covered.

    Returns:
        uint8 ``(height, width)``, 0 outside and 255 inside.
    """
    n = _SUPERSAMPLING
    coverage = np.zeros((height, width), np.uint8)
    # Only the outline's own part of the image is worked on, with a pixel to spare.
    points = np.concatenate(outline)
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, (width, height))
    if right <= left or bottom <= top:
        return coverage
    fine: np.ndarray = np.zeros(((bottom - top) * n, (right - left) * n), np.uint8)
    unit = 1 << _FIXED_POINT_BITS
    # OpenCV puts integer coordinates at pixel centres, our frame puts them at pixel edges.
    fixed = [np.round(((c - (left, top)) * n - 0.5) * unit).astype(np.int32) for c in outline]
    cv2.fillPoly(fine, fixed, (255,), shift=_FIXED_POINT_BITS)
    if border:
        kernel = np.ones((2 * border + 1, 2 * border + 1), np.uint8)
        eroded = cv2.erode(fine, kernel, borderType=cv2.BORDER_REPLICATE)
        fine = cv2.subtract(fine, eroded)
    coverage[top:bottom, left:right] = _average_down(fine, bottom - top, right - left)
    return coverage


def polygon_area(outline: Outline) -> float:
    """Area in square pixels of a simple outline whose further contours are holes in the first."""
    areas = []
    for contour in outline:
        x, y = contour[:, 0], contour[:, 1]
        areas.append(0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))))
    return areas[0] - sum(areas[1:])
