"""On which annotations or images a result was measured: the digests that name runs know no paths."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rekd_det.utils.dataset_configs import plain_datasets
from rekd_det.utils.errors import InputError
from studies.runner.data import settled_data
from studies.runner.digest import digest_of, digest_of_file
from studies.runner.run import Run
from studies.runner.stamp import read_stamp


def annotations_of(run: Run) -> dict[str, str] | None:
    """SHA-256 of the annotation files of a run's training and test by split; of folders of images by class, that of
    the files' names and sizes.

    Returns:
        None where the study generates the data (the run's digest covers that), and where a file is not on this machine.
    """
    if run.data is not None:
        return None
    found = {}
    config = settled_data(run)
    for split in ("train", "test"):
        for number, path in enumerate(_sources((config.get(f"{split}_dataloader") or {}).get("dataset"))):
            if not path.exists():
                return None
            told = _digest_of_folder(path, path.stat().st_mtime_ns) if path.is_dir() else digest_of_file(path)
            found[f"{split}{number or ''}"] = told
    return found or None


def same_annotations(run: Run, told: Mapping[str, str] | None) -> bool:
    """Whether a result that was measured on ``told`` holds for a run here; also where either is unknown."""
    here = annotations_of(run) if told else None
    return here is None or here == dict(told or {})


def check_same_data(runs: Iterable[Run], folder: Path) -> None:
    """Raise InputError if a run in one of ``folder``'s folders was trained on other annotations than those here."""
    for run in runs:
        stamp = read_stamp(folder / run.folder, run.digest)
        told = stamp.annotations or (stamp.result or {}).get("annotations")
        if not same_annotations(run, told):
            raise InputError(
                f"'{folder / run.folder}' was trained on other annotation files or images than data_root has now: "
                "name another folder with --out, or remove this one to train it again"
            )


def _sources(dataset: object) -> Iterator[Path]:
    for _, plain in plain_datasets(dataset):
        root, prefix = plain.get("data_root") or "", plain.get("data_prefix") or ""
        if isinstance(plain.get("ann_file"), str) and plain["ann_file"]:
            yield Path(root, plain["ann_file"])
        elif root and isinstance(prefix, str):
            yield Path(root, prefix)


@functools.cache
def _digest_of_folder(folder: Path, changed: int) -> str:
    files = (path for path in folder.rglob("*") if path.is_file())
    return digest_of(sorted((str(path.relative_to(folder)), path.stat().st_size) for path in files))
