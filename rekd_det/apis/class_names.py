"""Compare the classes that a data set names with the categories of its annotation file.

CocoDataset numbers labels in the order of the file's ``categories`` and leaves out names that the file lacks. So a
typo, or another order, gives objects the labels of other classes, and nothing fails.
"""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS
from mmengine.fileio import list_from_file

from rekd_det.utils.config_types import type_class
from rekd_det.utils.errors import InputError, did_you_mean, listing


class ClassNames(NamedTuple):
    """The classes of a data set by label, as its config has them.

    Attributes:
        names: the names.
        key: the config key that sets them, for messages.
        default: the class whose own names hold because the key is not set; None: it is set.
    """

    names: Sequence[Any]
    key: str
    default: str | None = None


def reads_as_coco(dataset: Mapping) -> bool:
    """Whether the data set is mmdet's ``CocoDataset``, or of a subclass that reads and numbers annotations as it does.

    LVIS, Objects365, the panoptic data sets and others have ways of their own.
    """
    kind = dataset_class(dataset)
    return (
        kind is not None
        and issubclass(kind, CocoDataset)
        and kind.load_data_list is CocoDataset.load_data_list
        and kind.parse_data_info is CocoDataset.parse_data_info
        and kind.COCOAPI is COCO
    )


def class_names(dataset: Mapping, key: str) -> ClassNames | None:
    """The names of a data set that takes them from ``metainfo`` or its class; None where neither says them.

    Args:
        dataset: its config.
        key: its config key.

    Raises:
        InputError: see :func:`read_names`.
    """
    metainfo = dataset.get("metainfo")
    names, default = metainfo.get("classes") if isinstance(metainfo, Mapping) else None, None
    if names is None:
        kind = dataset_class(dataset)
        names, default = getattr(kind, "METAINFO", {}).get("classes"), getattr(kind, "__name__", None)
    return ClassNames(read_names(names, key), f"{key}.metainfo.classes", default) if names else None


def read_names(names: Any, key: str) -> Sequence[Any]:
    """The names in a data set's ``metainfo.classes``; a text there is a file with a name on each line.

    Raises:
        InputError: if it is a text and no file.
    """
    if not isinstance(names, str):
        return names
    if not osp.isfile(names):
        raise InputError(
            f"{key}.metainfo.classes is the text '{names}', and there is no such file with names. For one category "
            f"write ('{names}',), with the comma"
        )
    return list_from_file(names)


def fault_in_names(classes: ClassNames, categories: Sequence[str]) -> str | None:
    """What is wrong with the classes of a data set, given the names in its annotation file; None: nothing.

    A file may have more categories than the config names: their objects are left out.
    """
    names, key, default = classes
    source = key if default is None else f"{default} (as {key} is not set)"
    known = set(categories)
    missing = [name for name in names if not isinstance(name, str) or name not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return (
            f"`categories` has no {missing[0]!r}{more}, which {source} names"
            f"{did_you_mean(str(missing[0]), categories) or '.'} CocoDataset would leave the name out and number the "
            f"others without it. Set {key} to names of the file, in its order: {listing(categories)}"
        )
    named = set(names)
    used = [name for name in categories if name in named]
    for where, given in ((source, names), ("`categories`", used)):
        name, count = Counter(given).most_common(1)[0]
        if count > 1:
            return f"{where} names {name!r} {count} times, so CocoDataset would number the classes wrongly: keep one"
    for label, (ours, theirs) in enumerate(zip(names, used, strict=True)):
        if ours != theirs:
            return (
                f"the order of the classes differs: label {label} is {ours!r} in {source} and {theirs!r} in the file. "
                f"CocoDataset numbers labels in the order of the file's `categories`. Set {key} to that order, "
                f"{listing(used)}, or reorder `categories` in the file"
            )
    return None


def dataset_class(dataset: Mapping) -> Any:
    """The class of a data set's config; None where its type names none."""
    return type_class(dataset.get("type"), DATASETS)
