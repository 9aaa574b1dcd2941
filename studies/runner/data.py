"""Where the data of a study lies: generated sets, shared by all that need the same, and sets that were there before."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from rekd_det.apis.evaluator_options import accuracy_top_k, check_evaluators, evaluators_of, is_coco
from rekd_det.apis.preflight import check_data
from rekd_det.datasets.synthetic import build_dataset
from rekd_det.datasets.synthetic.coco_writer import GENERATOR_VERSION
from rekd_det.utils.config_types import default_scope, type_class, type_name
from rekd_det.utils.dataset_configs import plain_datasets
from rekd_det.utils.errors import InputError
from rekd_det.utils.options import options_of
from studies.runner.arm_errors import naming
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


def check_data_of(runs: Iterable[Run], root: Path) -> None:
    """Check data sets, pipelines and evaluators, those of the tests too, each once; generated data must be there.

    A test follows its training, so that a mistake in it would cost the whole training.

    Args:
        runs: that are left.
        root: of the studies.

    Raises:
        InputError: a file is missing, or something can't be built; nothing was trained then.
    """
    seen = set()
    for run in runs:
        cfg = settled_data(run, None if run.data is None else data_folder(root, run.data))
        key = digest_of(run.data, cfg.get("train_dataloader"), cfg.get("test_dataloader"), cfg.get("test_evaluator"))
        if key in seen:
            continue
        seen.add(key)
        with naming(run.arm):
            _check_paths(cfg, run)
            _build_data(cfg, run)


def _check_paths(cfg: Config, run: Run) -> None:
    try:
        check_data(cfg, ("train", "test"))
    except InputError as error:
        if run.data is not None:
            raise
        key = f"{'pretrain.' if run.arm == PRETRAIN else ''}data_root"
        raise InputError(f"{error} Or name the folder that holds the data in the study file: {key}") from error


def _build_data(cfg: Config, run: Run) -> None:
    init_default_scope(default_scope(cfg))
    for split in ("train", "test") if run.tested else ("train",):
        for _, dataset in plain_datasets((cfg.get(f"{split}_dataloader") or {}).get("dataset")):
            kind = type_class(dataset.get("type"), DATASETS)
            if kind is not None and "lazy_init" in options_of(kind):  # reads no file
                DATASETS.build({**dataset, "lazy_init": True})
    if run.tested:
        check_evaluators(cfg, "test")
        evaluators = dict(evaluators_of(cfg, "test"))
        if not any(is_coco(of) or accuracy_top_k(cfg, of) for of in evaluators.values()):
            types = ", ".join(f"{key}.type={type_name(of.get('type'))}" for key, of in evaluators.items())
            raise InputError(f"{types}: a study compares the AP of CocoMetric or the top-k of MMPretrain's Accuracy")
        for evaluator in evaluators.values():
            METRICS.build(evaluator)


def settled_data(run: Run, generated: Path | None = None) -> Config:
    """A copy of a run's config, with its data in the folder of the generated ones, or under the study's ``data_root``.

    Args:
        run: of a plan.
        generated: folder of the data set that the study generates; None leaves the config's own.

    Raises:
        InputError: the config has no ``data_root`` to replace, or several.
    """
    cfg = copy.deepcopy(run.config)
    if generated is not None:
        for split in ("train", "test"):
            for _, dataset in plain_datasets(cfg[f"{split}_dataloader"].dataset):
                dataset["data_root"] = f"{generated}/"
        for _, evaluator in evaluators_of(cfg, "test"):
            if is_coco(evaluator):
                cast(dict, evaluator)["ann_file"] = str(generated / "annotations" / "instances_val2017.json")
        return cfg
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
