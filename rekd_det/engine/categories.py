"""The categories that a Runner's data sets name, by label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmengine.runner import Runner

from rekd_det.utils.errors import InputError

#: what gives a category its number, for a hint how to change it
NUMBERING = (
    "labels follow the order of `categories` in annotation files, and the alphabet where images lie in a folder for "
    "each category"
)


def compare_validation(runner: Runner) -> list[Sequence[str]]:
    """The categories of each training set that names them.

    Raises:
        InputError: if the validation has others, or in another order.
    """
    named = named_categories(runner.train_dataloader)
    for classes in named_categories(getattr(runner.val_loop, "dataloader", None)) if named else ():
        _check_validation(named[0], classes)
    return named


def named_categories(loader: Any) -> list[Sequence[str]]:
    """The categories of each data set behind a data loader that names them; a string for them is refused."""
    infos = getattr(getattr(loader, "dataset", None), "metainfo", None) or {}
    # Joined data sets whose metainfo differs in any key have a list of them.
    infos = infos if isinstance(infos, list) else [infos]
    named = [classes for info in infos if (classes := info.get("classes")) is not None]
    for classes in named:
        if isinstance(classes, str):
            raise InputError(f"metainfo.classes of the data set is a string; for one category write ('{classes}',)")
    return named


def _check_validation(train: Sequence[str], val: Sequence[str]) -> None:
    """Raise InputError, naming the first difference, unless training and validation have the same categories."""
    for label, (ours, theirs) in enumerate(zip_longest(train, val)):
        if ours != theirs:
            raise InputError(
                f"category {label} is {ours!r} in the training set, which has {len(train)} categories, and {theirs!r} "
                f"in the validation set, which has {len(val)}: predictions would be compared with other labels. Give "
                f"both the same names in the same order; {NUMBERING}"
            )
