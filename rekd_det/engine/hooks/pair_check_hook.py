"""PairCheckHook: teacher, student and data sets must mean the same category by the same index."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmrazor.registry import HOOKS

from rekd_det.engine.categories import NUMBERING, compare_validation
from rekd_det.engine.utils import distillation_of
from rekd_det.utils.errors import InputError


@HOOKS.register_module()
class PairCheckHook(Hook):
    """Before training: teacher, student and data sets must mean the same category by the same index."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Raise InputError where categories differ in number or order.

        Those of the validation are compared with the training's; the teacher's too, if logits are distilled.
        """
        named = compare_validation(runner)
        model = distillation_of(runner)
        if model.distiller.adapter is None:
            return  # feature maps alone are distilled, which have no categories
        teacher = model.teacher_classes
        if teacher is not None and not named:
            print_log(
                "train_dataloader.dataset names no categories (metainfo.classes); their order can't be checked",
                logger="current",
            )
        if teacher is None:
            print_log(
                "the teacher's checkpoint does not name its categories; their order can't be checked",
                logger="current",
            )
            return
        for classes in named:
            check_categories(tuple(classes), teacher)


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
                f"metainfo.classes with it: {NUMBERING}"
            )
