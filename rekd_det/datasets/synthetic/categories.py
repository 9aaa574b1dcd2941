"""The categories: six families, each of four shapes that are easily taken for one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rekd_det.datasets.synthetic import geometry
from rekd_det.datasets.synthetic.geometry import Outline


@dataclass(frozen=True)
class Category:
    """One category.

    Attributes:
        name: unique name, also COCO's.
        family: the look-alikes it belongs to (COCO's ``supercategory``).
        outline: maps a variation in ``[0, 1]`` to the shape's outline.
        mark: outline of an inner mark that distinguishes it from its family, if it has one.
        max_stretch: how far an instance may be stretched without turning into a sibling.
    """

    name: str
    family: str
    outline: Callable[[float], Outline]
    mark: Outline | None = None
    max_stretch: float = 0.12


def _polygon(v: float, sides: int) -> Outline:
    return geometry.regular_polygon(sides)


def _star(v: float, points: int, inner: float) -> Outline:
    return geometry.star(points, inner + 0.08 * v)


def _arms(v: float, count: int) -> Outline:
    return geometry.arms(count, 0.16 + 0.06 * v)


def _disc(v: float) -> Outline:
    return geometry.circle()


def _square(v: float) -> Outline:
    return geometry.box(0.8, 0.8)


# Both orders are the order of inclusion: a preset with 12 categories takes the first three of each
# of the first four families.
FAMILIES: dict[str, tuple[Category, ...]] = {
    "round": (
        Category("circle", "round", _disc, max_stretch=0.05),
        Category("ellipse", "round", geometry.ellipse, max_stretch=0.0),
        Category("ring", "round", geometry.ring, max_stretch=0.05),
        Category("crescent", "round", geometry.crescent),
    ),
    "star": (
        Category("star-5", "star", partial(_star, points=5, inner=0.40)),
        Category("star-4", "star", partial(_star, points=4, inner=0.36)),
        Category("star-6", "star", partial(_star, points=6, inner=0.48)),
        Category("star-8", "star", partial(_star, points=8, inner=0.56)),
    ),
    "cross": (
        Category("cross-4", "cross", partial(_arms, count=4)),
        Category("cross-3", "cross", partial(_arms, count=3)),
        Category("cross-5", "cross", partial(_arms, count=5)),
        Category("cross-6", "cross", partial(_arms, count=6)),
    ),
    "badge": (
        Category("badge-plain", "badge", _square),
        Category("badge-dot", "badge", _square, mark=geometry.circle(0.38)),
        Category("badge-bar", "badge", _square, mark=geometry.box(0.6, 0.17)),
        Category("badge-cross", "badge", _square, mark=geometry.arms(4, 0.15, 0.6)),
    ),
    "polygon": (
        Category("pentagon", "polygon", partial(_polygon, sides=5)),
        Category("hexagon", "polygon", partial(_polygon, sides=6)),
        Category("heptagon", "polygon", partial(_polygon, sides=7), max_stretch=0.05),
        Category("octagon", "polygon", partial(_polygon, sides=8), max_stretch=0.05),
    ),
    "pointer": (
        Category("triangle", "pointer", geometry.triangle),
        Category("chevron", "pointer", geometry.chevron),
        Category("kite", "pointer", geometry.kite),
        Category("arrow", "pointer", geometry.arrow),
    ),
}


def select_categories(families: int, per_family: int) -> tuple[Category, ...]:
    """The first ``per_family`` categories of each of the first ``families`` families."""
    chosen = list(FAMILIES.values())[:families]
    return tuple(category for members in chosen for category in members[:per_family])
