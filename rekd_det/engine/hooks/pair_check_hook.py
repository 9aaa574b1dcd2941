"""PairCheckHook: teacher, student and data sets must mean the same category by the same index."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmrazor.registry import HOOKS

from rekd_det.engine.utils import distillation_of
from rekd_det.utils.errors import InputError

#: what gives a category its number, for a hint how to change it
_NUMBERING = (
    "labels follow the order of `categories` in annotation files, and the alphabet where images lie in a folder for "
    "each category"
)


@HOOKS.register_module()
class PairCheckHook(Hook):
    """Before training: teacher, student and data sets must mean the same category by the same index."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Raise InputError where categories differ in number or order.

        Those of the validation are compared with the training's; the teacher's too, if logits are distilled.
        """
        named = _named_categories(runner.train_dataloader)
        if not named:
            return
        for classes in _named_categories(getattr(runner.val_loop, "dataloader", None)):
            check_validation(named[0], classes)
        model = distillation_of(runner)
        if model.distiller.adapter is None:
            return  # feature maps alone are distilled, which have no categories
        teacher = model.teacher_classes
        if teacher is None:
            print_log(
                "the teacher's checkpoint does not name its categories; their order can't be checked",
                logger="current",
            )
            return
        for classes in named:
            check_categories(tuple(classes), teacher)


def _named_categories(loader: Any) -> list[Sequence[str]]:
    """The categories of each data set behind a data loader that names them; a string for them is refused."""
    infos = getattr(getattr(loader, "dataset", None), "metainfo", None) or {}
    # Joined data sets whose metainfo differs in any key have a list of them.
    infos = infos if isinstance(infos, list) else [infos]
    named = [classes for info in infos if (classes := info.get("classes")) is not None]
    for classes in named:
        if isinstance(classes, str):
            raise InputError(f"metainfo.classes of the data set is a string; for one category write ('{classes}',)")
    return named


def check_validation(train: Sequence[str], val: Sequence[str]) -> None:
    """Raise InputError, naming the first difference, unless training and validation have the same categories.

    Args:
        train: category names of the training set, by label.
        val: those of the validation set.
    """
    for label, (ours, theirs) in enumerate(zip_longest(train, val)):
        if ours != theirs:
            raise InputError(
                f"category {label} is {ours!r} in the training set, which has {len(train)} categories, and {theirs!r} "
                f"in the validation set, which has {len(val)}: predictions would be compared with other labels. Give "
                f"both the same names in the same order; {_NUMBERING}"
            )


def check_categories(data: tuple[str, ...], teacher: tuple[str, ...]) -> None:
    """Raise InputError, naming the first difference, unless both name the same categories in the same order.

    Args:
        data: category names of the data set, by label.
        teacher: category names the teacher was trained with, by label.
    """
    if len(data) != len(teacher):
        raise InputError(
            f"the data set has {len(data)} categories, the teacher was trained on {len(teacher)}. Take a teacher "
            "trained on this data set's categories, or set metainfo.classes of the data set"
        )
    for label, (ours, theirs) in enumerate(zip(data, teacher, strict=True)):
        if ours != theirs:
            raise InputError(
                f"category {label} is {ours!r} in the data set and {theirs!r} for the teacher: the order differs. "
                "Take a teacher with the data set's order, or bring the data set in the teacher's, and "
                f"metainfo.classes with it: {_NUMBERING}"
            )
