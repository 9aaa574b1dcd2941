"""Compare the classes that a data set of XML files names with those of its objects.

mmdet's XMLDataset leaves out objects of other names, so the objects of a mistyped class are lost, and nothing fails.
"""

from __future__ import annotations

import os.path as osp
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping

from mmdet.datasets import XMLDataset
from mmengine.fileio import list_from_file

from rekd_det.apis.class_names import class_names, dataset_class
from rekd_det.utils.errors import InputError, did_you_mean, listing


def reads_as_xml(dataset: Mapping) -> bool:
    """Whether the data set is mmdet's ``XMLDataset``, or of a subclass that reads annotations as it does."""
    kind = dataset_class(dataset)
    return kind is not None and issubclass(kind, XMLDataset) and kind.load_data_list is XMLDataset.load_data_list


def check_xml_classes(dataset: Mapping, key: str) -> None:
    """Check that each class has objects in the XML files; it reads them until every class was seen.

    Args:
        dataset: the config of a data set that :func:`reads_as_xml`, whose files exist.
        key: its config key.

    Raises:
        InputError: if a class has none, and the files name a similar one, or if a file is not XML.
    """
    classes = class_names(dataset, key)
    if classes is None:
        return
    unseen = dict.fromkeys(classes.names)
    others: dict[str, None] = {}
    for name in _object_names(dataset, key):
        if name in unseen:
            del unseen[name]
        elif name not in classes.names:
            others[name] = None
        if not unseen:
            return
    for name in unseen:
        if meant := did_you_mean(str(name), others):
            raise InputError(
                f"{classes.key}: no object of the XML files is {name!r}{meant} Objects of other names are left out"
            )
    left_out = f", and {listing(others)} will be left out" if others else ""
    warnings.warn(f"{classes.key}: no object of the XML files is {listing(unseen)}{left_out}", stacklevel=2)


def _object_names(dataset: Mapping, key: str) -> Iterator[str]:
    root = dataset.get("data_root") or ""
    folder = osp.join(root, (dataset.get("data_prefix") or {}).get("sub_data_root", ""))
    folder = osp.join(folder, dataset.get("ann_subdir", "Annotations"))
    for number in list_from_file(osp.join(root, dataset["ann_file"])):
        path = osp.join(folder, f"{number}.xml")
        if not osp.isfile(path):
            continue
        try:
            objects = ElementTree.parse(path)
        except ElementTree.ParseError as error:
            raise InputError(f"{key}.ann_file names '{path}', which is not an XML file ({error})") from error
        for found in objects.iterfind("object/name"):
            yield found.text or ""
