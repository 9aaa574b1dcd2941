"""Compare the classes that a detector's heads have with those of its data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmdet.models import MaskFormerHead
from mmdet.registry import MODELS

from rekd_det.apis.class_names import ClassNames
from rekd_det.utils.config_types import type_class
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import trained_model


def check_head_classes(model: Any, classes: ClassNames | None) -> None:
    """Raise InputError if a head's number of classes does not go with its data set's.

    mmdet notices too many when a detection of one is evaluated, after an epoch, and too few at the first object of one.
    Mask heads of R-CNN's kind take the class from the box: more than needed do no harm there.

    Args:
        model: the config of a detector, or of a pair, whose student is meant; anything else is left alone.
        classes: what the data set names; None where the config does not say it.
    """
    key, model = trained_model(model)
    if classes is None or not isinstance(model, Mapping) or model.get("language_model"):  # words are not categories
        return
    wanted = len(classes.names)
    for name, count, exact in _class_counts(model, key):
        if isinstance(count, int) and (count < wanted or (exact and count > wanted)):
            source = classes.key if classes.default is None else f"{classes.default} ({classes.key} is not set)"
            raise InputError(f"{name}={count}, but {source} has {wanted} classes: both must be the same")


def check_class_weights(model: Any) -> None:
    """Raise InputError if a MaskFormer's loss has another number of weights than its head has classes.

    Args:
        model: as for :func:`check_head_classes`.
    """
    key, model = trained_model(model)
    head = model.get("panoptic_head") if isinstance(model, Mapping) else None
    if not isinstance(head, Mapping) or not issubclass(type_class(head.get("type"), MODELS) or object, MaskFormerHead):
        return
    classes = head.get("num_things_classes", 80) + head.get("num_stuff_classes", 53)  # mmdet's defaults
    weights = (head.get("loss_cls") or {}).get("class_weight")
    if isinstance(weights, (list, tuple)) and len(weights) != classes + 1:
        raise InputError(
            f"{key}.panoptic_head.loss_cls.class_weight has {len(weights)} weights, but the head has {classes} classes "
            f"(num_things_classes + num_stuff_classes) and one for no object: give {classes + 1} weights, "
            f"e.g. [1.0] * {classes} + [0.1]"
        )


def _class_counts(model: Mapping, key: str) -> Iterator[tuple[str, Any, bool]]:
    """The config keys of numbers of classes, the numbers, and whether more than the data set's are wrong too."""
    for part_key, part in ((key, model), (f"{key}.roi_head", model.get("roi_head"))):
        if not isinstance(part, Mapping):
            continue
        # PointRend's two heads are stacked; SOLO's mask head has no boxes to take the class from.
        pair = [part.get("mask_head"), part.get("point_head")]
        stacked = {head.get("num_classes") for head in pair if isinstance(head, Mapping)}
        alone = part.get("bbox_head") is None or len(stacked) > 1
        for name in ("bbox_head", "mask_head", "mask_iou_head", "point_head"):
            several = isinstance(part.get(name), (list, tuple))
            for index, head in enumerate(part[name] if several else [part.get(name)]):
                if isinstance(head, Mapping) and not head.get("class_agnostic"):
                    head_key = f"{part_key}.{name}" + (f".{index}" if several else "")
                    yield f"{head_key}.num_classes", head.get("num_classes"), alone or name == "bbox_head"
    for name in ("panoptic_head", "panoptic_fusion_head") if model.get("panoptic_head") else ():
        yield f"{key}.{name}.num_things_classes", (model.get(name) or {}).get("num_things_classes"), True
