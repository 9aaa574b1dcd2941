"""The generated data sets of studies, shared by all that need the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekd_det.datasets.synthetic import build_dataset
from rekd_det.datasets.synthetic.coco_writer import GENERATOR_VERSION
from studies.runner.plan import digest_of
from studies.runner.spec import StudyError


def data_folder(root: Path, data: Mapping[str, Any]) -> Path:
    """Where a data set lies; the digest keeps sets of several studies and versions of the generator apart."""
    return root / "data" / f"{data['preset']}-{digest_of(data, GENERATOR_VERSION)[:12]}"


def write_data(root: Path, data: Mapping[str, Any]) -> None:
    """Generate a data set unless it is there.

    Args:
        root: of the studies.
        data: arguments of :func:`rekd_det.datasets.synthetic.build_dataset`.

    Raises:
        StudyError: it refuses one of them.
    """
    try:
        build_dataset(data_folder(root, data), **data)
    except TypeError as error:
        raise StudyError(f"data: {error}") from error
