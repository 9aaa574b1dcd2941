"""One scene: objects of look-alike categories on a textured background, with clutter.

Image ``i`` of a split depends on the seed, the preset, the split and ``i`` alone: not on how many
images there are, nor on how many processes draw them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rekd_det.datasets.synthetic import geometry, textures
from rekd_det.datasets.synthetic.categories import Category, select_categories
from rekd_det.datasets.synthetic.textures import Rng

SPLITS = ("train", "val")
# The first images of each split must show this many categories each, in turn, so that no category
# is missing however long the tail of the frequencies is.
FORCED_PER_IMAGE = 2

_MIN_VISIBLE_PIXELS = 24
_PLACEMENT_TRIES = 12
_FORCED_PLACEMENT_TRIES = 400


@dataclass(frozen=True)
class Preset:
    """How many images, how large and how hard.

    Attributes:
        families, per_family: which categories (see ``categories.FAMILIES``).
        train, val: number of images.
        size: side of the square images, in pixels.
        objects: least and largest number of objects that are tried per image.
        radius: least and largest circumradius of an object, in pixels.
        tail_exponent: the category of rank r is drawn with frequency ``(r + 1) ** -tail_exponent``.
        min_visible: an object is placed only where at least this share of it can be seen.
        clutter: least and largest number of distractors (strokes and blobs), unannotated.
        max_noise: largest amplitude of the sensor noise, in grey levels.
        min_contrast: least distance (in BGR space) of an object's colour to what is behind it.
        colour_cue: probability that an object's hue is that of its family (a cue that makes the
            families easy, not the categories within them).
    """

    families: int
    per_family: int
    train: int
    val: int
    size: int
    objects: tuple[int, int]
    radius: tuple[float, float]
    tail_exponent: float
    min_visible: float
    clutter: tuple[int, int]
    max_noise: int
    min_contrast: float
    colour_cue: float

    @property
    def categories(self) -> tuple[Category, ...]:
        return select_categories(self.families, self.per_family)

    def resized(self, size: int) -> Preset:
        """The same scenes' make-up on images of another size."""
        low, high = (r * size / self.size for r in self.radius)
        return replace(self, size=size, radius=(low, high))

    @property
    def min_images(self) -> int:
        """Smallest number of images per split in which every category appears."""
        return math.ceil(self.families * self.per_family / FORCED_PER_IMAGE)


PRESETS: dict[str, Preset] = {
    "tiny": Preset(4, 3, 8, 6, 96, (2, 4), (10, 24), 0.5, 0.6, (0, 2), 4, 70.0, 0.8),
    "demo": Preset(4, 3, 800, 100, 128, (2, 5), (12, 30), 0.5, 0.6, (0, 3), 4, 70.0, 0.8),
    "study": Preset(6, 4, 2000, 400, 128, (2, 6), (11, 32), 0.7, 0.5, (1, 5), 8, 55.0, 0.2),
    "large": Preset(6, 4, 20000, 2000, 320, (4, 14), (9, 64), 0.9, 0.35, (3, 12), 14, 35.0, 0.1),
}


@dataclass(frozen=True)
class SceneObject:
    """An annotated object.

    Attributes:
        category: index into the preset's categories.
        mask: its visible pixels, bool ``(H, W)``.
    """

    category: int
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """``image``: uint8 BGR ``(H, W, 3)``; ``objects``: front to back."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _Placed:
    """An object that has its place; ``coverage`` is its own, ``visible`` excludes what hides it."""

    category: int
    outline: geometry.Outline
    mark: geometry.Outline | None
    coverage: np.ndarray
    visible: np.ndarray


def category_frequencies(count: int, tail_exponent: float) -> np.ndarray:
    """Probabilities ``(count,)``, with common and rare members in each family."""
    stride = next(s for s in (7, 5, 3, 1) if math.gcd(s, count) == 1)
    rank = (np.arange(count) * stride + 2) % count
    weight = (rank + 1.0) ** -tail_exponent
    return weight / weight.sum()


def _wanted_categories(rng: Rng, preset: Preset, index: int) -> tuple[list[int], int]:
    """Categories of the image's objects, and how many of the first ones must be there."""
    count = len(preset.categories)
    first = index * FORCED_PER_IMAGE
    forced = list(range(first, min(first + FORCED_PER_IMAGE, count)))
    number = max(int(rng.integers(preset.objects[0], preset.objects[1] + 1)), len(forced))
    drawn = rng.choice(
        count,
        size=number - len(forced),
        p=category_frequencies(count, preset.tail_exponent),
    )
    return forced + [int(c) for c in drawn], len(forced)


def _try_place(rng: Rng, preset: Preset, category: int, covered: np.ndarray) -> _Placed | None:
    """One attempt at a random place behind everything that is in ``covered``."""
    kind, size = preset.categories[category], preset.size
    low, high = preset.radius
    radius = low * (high / low) ** rng.random()
    centre = tuple(rng.uniform(0.06, 0.94, 2) * size)
    angle = rng.uniform(0.0, 2 * np.pi)
    stretch = 1.0 + kind.max_stretch * rng.uniform(-1.0, 1.0)
    shape = kind.outline(rng.random())
    outline = geometry.place(shape, centre, radius, angle, stretch)
    coverage = geometry.rasterise(outline, size, size)
    visible = (coverage >= 128) & ~covered
    pixels = int(visible.sum())
    if pixels < max(_MIN_VISIBLE_PIXELS, preset.min_visible * geometry.polygon_area(outline)):
        return None
    mark = kind.mark and geometry.place(kind.mark, centre, radius, angle, stretch)
    if mark is not None:
        # Without its mark it would be another category.
        mark_pixels = int(((geometry.rasterise(mark, size, size) >= 128) & visible).sum())
        if mark_pixels < 0.5 * geometry.polygon_area(mark):
            return None
    return _Placed(category, outline, mark, coverage, visible)


def _place_objects(rng: Rng, preset: Preset, index: int, hidden: np.ndarray) -> list[_Placed]:
    """Place objects front to back, so that what is visible of each is known when it is placed."""
    covered = hidden.copy()
    wanted, forced = _wanted_categories(rng, preset, index)
    placed: list[_Placed] = []
    for position, category in enumerate(wanted):
        tries = _FORCED_PLACEMENT_TRIES if position < forced else _PLACEMENT_TRIES
        for _ in range(tries):
            item = _try_place(rng, preset, category, covered)
            if item is not None:
                placed.append(item)
                covered |= item.coverage >= 128
                break
    return placed


def _object_colour(rng: Rng, preset: Preset, category: int, backdrop: np.ndarray) -> np.ndarray:
    families = list(dict.fromkeys(c.family for c in preset.categories))
    family_hue = families.index(preset.categories[category].family) / len(families)
    has_cue = rng.random() < preset.colour_cue
    for _ in range(30):
        hue = family_hue + rng.uniform(-0.05, 0.05) if has_cue else rng.random()
        colour = textures.hsv_colour(hue, rng.uniform(0.35, 1.0), rng.uniform(0.25, 1.0))
        if np.linalg.norm(colour.astype(float) - backdrop) >= preset.min_contrast:
            break
    return colour


def _draw_object(rng: Rng, preset: Preset, image: np.ndarray, item: _Placed) -> None:
    height, width = image.shape[:2]
    backdrop = image[item.visible].mean(axis=0)
    colour = _object_colour(rng, preset, item.category, backdrop)
    textures.paint(image, textures.fill(rng, colour, height, width), item.coverage)
    contrast = colour // 3 if int(colour.max()) > 140 else 255 - (255 - colour) // 3
    if item.mark is not None:
        textures.paint(image, contrast, geometry.rasterise(item.mark, height, width))
    if rng.random() < 0.3:
        rim = geometry.rasterise(item.outline, height, width, border=int(rng.integers(2, 5)))
        textures.paint(image, contrast, rim)


def _draw_distractors(rng: Rng, preset: Preset, image: np.ndarray) -> None:
    """Strokes and blobs behind the objects."""
    size = preset.size
    for _ in range(int(rng.integers(preset.clutter[0], preset.clutter[1] + 1))):
        if rng.random() < 0.5:
            coverage = textures.stroke_coverage(rng, size, size, int(rng.integers(1, 5)))
        else:
            radius = rng.uniform(*preset.radius) * 0.7
            outline = textures.blob(rng, rng.uniform(0, 1, 2) * size, radius)
            coverage = geometry.rasterise(outline, size, size)
        textures.paint(image, textures.random_colour(rng), coverage)


def render_scene(preset: Preset, seed: int, split: str, index: int) -> Scene:
    """Draw image ``index`` of a split.

    Args:
        preset: how large and how hard.
        seed: any non-negative integer.
        split: ``"train"`` or ``"val"``.
        index: number of the image in its split, from 0.
    """
    size = preset.size
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    image = textures.background(rng, size, size)
    _draw_distractors(rng, preset, image)

    # Clutter in front of the objects is planned first, because it hides part of them.
    strokes = [
        textures.stroke_coverage(rng, size, size, int(rng.integers(1, 4)))
        for _ in range(int(rng.integers(0, preset.clutter[1] // 3 + 1)))
    ]
    hidden = np.zeros((size, size), bool)
    for coverage in strokes:
        hidden |= coverage >= 128

    placed = _place_objects(rng, preset, index, hidden)
    for item in reversed(placed):
        _draw_object(rng, preset, image, item)
    for coverage in strokes:
        textures.paint(image, textures.random_colour(rng), coverage)

    image = textures.sensor_noise(rng, image, int(rng.integers(0, preset.max_noise + 1)))
    return Scene(image, tuple(SceneObject(item.category, item.visible) for item in placed))
