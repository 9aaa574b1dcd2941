"""Backgrounds, fills, clutter and noise.

Images are uint8 ``(H, W, 3)`` in OpenCV's BGR order. Everything is integer arithmetic or an OpenCV
operation that is exact by contract, so that equal seeds give equal bytes.
"""

from __future__ import annotations

import cv2
import numpy as np

from rekd_det.datasets.synthetic.geometry import Outline

Rng = np.random.Generator


def hsv_colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """BGR colour ``(3,)`` as uint8 from hue, saturation and value in ``[0, 1]``."""
    hsv = np.array([[[int(hue % 1.0 * 179), int(saturation * 255), int(value * 255)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]


def random_colour(rng: Rng) -> np.ndarray:
    return hsv_colour(rng.random(), rng.uniform(0.05, 0.75), rng.uniform(0.2, 0.95))


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend two colours (or images) by a uint8 ``(H, W)`` share of the second."""
    weight = share.astype(np.int32)[..., None]
    mixed = first.astype(np.int32) * (255 - weight) + second.astype(np.int32) * weight
    return (mixed // 255).astype(np.uint8)


def value_noise(rng: Rng, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth uint8 noise ``(H, W)`` with about ``cells`` bumps along a side."""
    grid = rng.integers(0, 256, (cells + 1, cells + 1), dtype=np.uint8)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)


def _ramp(rng: Rng, height: int, width: int) -> np.ndarray:
    """Position along a random direction, as int ``(H, W)`` in pixels."""
    angle = rng.uniform(0.0, np.pi)
    dx, dy = round(np.cos(angle) * 256), round(np.sin(angle) * 256)
    y, x = np.mgrid[0:height, 0:width]
    return (x * dx + y * dy) // 256


def _gradient(rng: Rng, height: int, width: int) -> np.ndarray:
    ramp = _ramp(rng, height, width)
    low, high = int(ramp.min()), int(ramp.max())
    return ((ramp - low) * 255 // max(high - low, 1)).astype(np.uint8)


def _stripes(rng: Rng, height: int, width: int, period: int) -> np.ndarray:
    ramp = _ramp(rng, height, width)
    return np.where(ramp % period * 2 < period, 255, 0).astype(np.uint8)


def _shards(rng: Rng, height: int, width: int) -> np.ndarray:
    canvas = np.full((height, width), int(rng.integers(256)), np.uint8)
    for _ in range(int(rng.integers(5, 12))):
        corners = rng.integers(-width // 4, width + width // 4, (3, 2)).astype(np.int32)
        cv2.fillPoly(canvas, [corners], (int(rng.integers(256)),))
    return cv2.GaussianBlur(canvas, (3, 3), 0)


def background(rng: Rng, height: int, width: int) -> np.ndarray:
    """A textured background: two related colours mixed by a random pattern."""
    kind = rng.integers(5)
    pattern: np.ndarray
    if kind == 0:
        coarse = value_noise(rng, height, width, 3).astype(np.uint16)
        fine = value_noise(rng, height, width, 12)
        pattern = ((2 * coarse + fine) // 3).astype(np.uint8)
    elif kind == 1:
        pattern = _gradient(rng, height, width)
    elif kind == 2:
        pattern = _stripes(rng, height, width, int(rng.integers(6, max(8, width // 6))))
        pattern = cv2.GaussianBlur(pattern, (5, 5), 0)
    elif kind == 3:
        pattern = _shards(rng, height, width)
    else:
        pattern = value_noise(rng, height, width, int(rng.integers(16, 32)))
    hue, value = rng.random(), rng.uniform(0.25, 0.85)
    first = hsv_colour(hue, rng.uniform(0.05, 0.5), value)
    second = hsv_colour(
        hue + rng.uniform(-0.12, 0.12),
        rng.uniform(0.05, 0.5),
        float(np.clip(value + rng.uniform(-0.3, 0.3), 0.1, 0.95)),
    )
    return _mix(first, second, pattern)


def fill(rng: Rng, colour: np.ndarray, height: int, width: int) -> np.ndarray:
    """Surface of an object: its colour, plain or with a shading, stripes or speckles."""
    kind = rng.integers(4)
    share: np.ndarray
    if kind == 0:
        share = np.zeros((height, width), np.uint8)
    elif kind == 1:
        share = _gradient(rng, height, width) // 2
    elif kind == 2:
        share = _stripes(rng, height, width, int(rng.integers(4, 10))) // 5
    else:
        share = value_noise(rng, height, width, int(rng.integers(4, 12))) // 3
    shade = np.full(3, 0 if rng.random() < 0.5 else 255, np.uint8)
    return _mix(colour, shade, share)


def paint(image: np.ndarray, surface: np.ndarray, coverage: np.ndarray) -> None:
    """Blend ``surface`` (a colour or an image) into ``image`` in place by uint8 ``coverage``."""
    rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
    if rows.size == 0:
        return
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if surface.ndim == 3:
        surface = surface[part]
    image[part] = _mix(image[part], surface, coverage[part])


def blob(rng: Rng, centre: np.ndarray, radius: float) -> Outline:
    """An irregular round-ish outline that belongs to no category."""
    angle = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    wobble = np.ones_like(angle)
    for harmonic in (2, 3, 5):
        phase = rng.uniform(0, 2 * np.pi)
        wobble += rng.uniform(0.05, 0.22) * np.cos(harmonic * angle + phase)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return [centre + radius * wobble[:, None] * points]


def stroke_coverage(rng: Rng, height: int, width: int, thickness: int) -> np.ndarray:
    """Coverage ``(H, W)`` of one bent line that runs through the image."""
    turns = np.cumsum(rng.normal(0.0, 0.5, 6)) + rng.uniform(0, 2 * np.pi)
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=-1) * rng.uniform(0.06, 0.2) * width
    start = rng.uniform(0, 1, 2) * (width, height)
    points: np.ndarray = np.cumsum(np.vstack([start, steps]), axis=0)
    points = np.round(points * 16).astype(np.int32)
    coverage = np.zeros((height, width), np.uint8)
    cv2.polylines(coverage, [points], False, (255,), thickness, cv2.LINE_AA, shift=4)
    return coverage


def sensor_noise(rng: Rng, image: np.ndarray, amplitude: int) -> np.ndarray:
    """Add triangular noise of up to ``+-2 * amplitude`` grey levels to each value."""
    if amplitude == 0:
        return image
    noise = rng.integers(-amplitude, amplitude + 1, (2, *image.shape), dtype=np.int16).sum(axis=0)
    return np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
