"""CategoriesHook: labels that a classifier has no logit for, and a validation with other categories."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from rekd_det.engine.categories import compare_validation
from rekd_det.engine.utils import model_of
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import classifies_images, is_pair


class CategoriesHook(Hook):
    """Before training: the validation has the training's categories, and a classifier's head has all of them.

    A detector's head was compared with its annotation files before it was built.
    """

    def before_train(self, runner: Runner) -> None:
        """Raise InputError for other categories, or a label without a logit."""
        named = compare_validation(runner)
        if not classifies_images(runner.cfg):
            return
        model = model_of(runner)
        pair = is_pair(runner.cfg.model)
        head = getattr(model.architecture if pair else model, "head", None)
        count = getattr(head, "num_classes", None)
        if not isinstance(count, int):
            return
        key = f"model.{'architecture.' if pair else ''}head.num_classes={count}"
        if named and len(named[0]) > count:
            raise InputError(
                f"{key}, but train_dataloader.dataset has {len(named[0])} categories: both must be the same"
            )
        if named and len(named[0]) < count:
            runner.logger.warning(f"{key}, but train_dataloader.dataset has only {len(named[0])} categories")
        if not named:
            _check_labels(runner.train_dataloader.dataset, count, key)


def _check_labels(dataset: Any, count: int, key: str) -> None:
    """Raise InputError if an image of a data set without names for its categories has a label beyond the head's."""
    for index in range(len(dataset) if hasattr(dataset, "get_cat_ids") else 0):
        for label in dataset.get_cat_ids(index):
            if not 0 <= label < count:
                raise InputError(
                    f"image number {index} of train_dataloader.dataset has label {label}, and {key}: labels go from 0 "
                    f"to {count - 1}. Correct the annotation file or the number of classes"
                )
