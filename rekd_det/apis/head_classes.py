"""Compare the classes that a detector's heads have with those of its data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rekd_det.apis.class_names import ClassNames
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair


class HeadClassesError(InputError):
    """A head with another number of classes than its data set."""


def check_head_classes(model: Any, classes: ClassNames | None) -> None:
    """Raise HeadClassesError if a ``bbox_head`` has another ``num_classes`` than its data set has classes.

    mmdet notices too many when a detection of one is evaluated, after an epoch, and too few at the first object of one.

    Args:
        model: the config of a detector, or of a pair, whose student is meant; anything else is left alone.
        classes: what the data set names; None where the config does not say it.
    """
    key, model = ("model.architecture", model["architecture"]) if is_pair(model) else ("model", model)
    if classes is None or not isinstance(model, Mapping) or model.get("language_model"):  # words are not categories
        return
    for name, head in _box_heads(model, key):
        count = head.get("num_classes")
        if isinstance(count, int) and count != len(classes.names):
            source = classes.key if classes.default is None else f"{classes.default} ({classes.key} is not set)"
            raise HeadClassesError(
                f"{name}.num_classes={count}, but {source} has {len(classes.names)} classes: both must be the same"
            )


def _box_heads(model: Any, key: str) -> Iterator[tuple[str, Mapping]]:
    if not isinstance(model, Mapping):
        return
    for name, part in model.items():
        if name == "bbox_head":
            several = isinstance(part, (list, tuple))
            for index, head in enumerate(part if several else [part]):
                if isinstance(head, Mapping):
                    yield f"{key}.bbox_head" + (f".{index}" if several else ""), head
        elif name == "roi_head":
            yield from _box_heads(part, f"{key}.roi_head")
