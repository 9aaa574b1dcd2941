"""Where the data of a study lies: generated sets, shared by all that need the same, and sets that were there before."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from rekd_det.apis.preflight import check_data
from rekd_det.datasets.synthetic import build_dataset
from rekd_det.datasets.synthetic.coco_writer import GENERATOR_VERSION
from rekd_det.utils.errors import InputError
from studies.runner.digest import data_roots, digest_of
from studies.runner.run import Run
from studies.runner.spec import PRETRAIN


def data_folder(root: Path, data: Mapping[str, Any]) -> Path:
    """Where a data set lies; the digest keeps sets of several studies and versions of the generator apart."""
    return root / "data" / f"{data['preset']}-{digest_of(data, GENERATOR_VERSION)[:12]}"


def write_data(root: Path, data: Mapping[str, Any]) -> None:
    """Generate a data set unless it is there.

    Args:
        root: of the studies.
        data: arguments of :func:`rekd_det.datasets.synthetic.build_dataset`.

    Raises:
        InputError: it refuses one of them.
    """
    try:
        build_dataset(data_folder(root, data), **data)
    except TypeError as error:
        raise InputError(f"data: {error}") from error


def check_data_of(runs: Iterable[Run]) -> None:
    """Check the data sets that are not generated, each once.

    Raises:
        InputError: a file is missing; nothing was trained then.
    """
    seen = set()
    for run in runs:
        if run.data is not None:
            continue
        cfg = settled_data(run)
        key = digest_of(cfg.get("train_dataloader"), cfg.get("test_dataloader"), cfg.get("test_evaluator"))
        if key not in seen:
            seen.add(key)
            try:
                check_data(cfg, ("train", "test"))
            except InputError as error:
                raise InputError(
                    f"{run.arm}: {error} Or name the folder that holds the data in the study file: "
                    f"{'pretrain.' if run.arm == PRETRAIN else ''}data_root"
                ) from error


def settled_data(run: Run) -> Config:
    """A copy of a run's config, with its data under the study's ``data_root`` where it names one.

    Raises:
        InputError: the config has no ``data_root`` to replace, or several.
    """
    cfg = copy.deepcopy(run.config)
    if run.data_root is None:
        return cfg
    keys = [key for key in cfg if key.endswith(("_dataloader", "_evaluator"))]
    roots = data_roots([cfg[key] for key in keys])
    if len(roots) != 1:
        raise InputError(f"data_root replaces the one of a config, but that of '{run.arm}' has {len(roots)} of them")
    (root,) = roots
    for key in keys:
        cfg[key] = _moved(cfg[key], root, f"{run.data_root}/")
    return cfg


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(inner, old, new) for inner in value)  # transforms tell tuples from lists
    return new + value.removeprefix(old).lstrip("/") if isinstance(value, str) and value.startswith(old) else value
