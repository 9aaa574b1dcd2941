"""Data sets in a config, from under the wrappers that repeat, join or mix them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def plain_datasets(dataset: object, key: str = "dataset") -> Iterator[tuple[str, Any]]:
    """The config keys and configs of the data sets that read files, in order.

    Args:
        dataset: config of a data set or of a wrapper (``RepeatDataset``, ``ConcatDataset``, ``MultiImageMixDataset``);
            nothing comes of anything else.
        key: where it stands in the config.
    """
    if not isinstance(dataset, Mapping):
        return
    if isinstance(dataset.get("datasets"), (list, tuple)):
        for index, inner in enumerate(dataset["datasets"]):
            yield from plain_datasets(inner, f"{key}.datasets.{index}")
    elif "dataset" in dataset:
        yield from plain_datasets(dataset["dataset"], f"{key}.dataset")
    else:
        yield key, dataset
