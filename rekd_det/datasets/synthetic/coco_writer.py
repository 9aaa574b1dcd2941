"""Writes a generated data set as COCO's folders and JSON files, completely or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from rekd_det.datasets.synthetic.shapes import PRESETS, SPLITS, Preset, Scene, render_scene
from rekd_det.utils.errors import InputError

# Raise it whenever the same arguments give other bytes than before.
GENERATOR_VERSION = "1.1"

_STAMP = "shapes.json"
_JPEG_QUALITY = 92
# Ids are unique over both splits and follow from the image's number alone.
_FIRST_IMAGE_ID = {"train": 1, "val": 5_000_001}
_IDS_PER_IMAGE = 100
# Below it, starting processes takes longer than it saves.
_SMALL_SET = 200
_MOST_WORKERS = 8
_QUIET_SECONDS = 5.0


def uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run-length code of a bool mask ``(H, W)``.

    Runs go down the columns and start with the zeros. Unlike polygons it keeps holes and the exact
    edges of pixels.
    """
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": counts}


def _annotations(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    found = []
    for number, item in enumerate(scene.objects):
        ys, xs = np.nonzero(item.mask)
        x, y = int(xs.min()), int(ys.min())
        found.append(
            {
                "id": image_id * _IDS_PER_IMAGE + number,
                "image_id": image_id,
                "category_id": item.category + 1,
                "bbox": [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y],
                "area": int(item.mask.sum()),
                "iscrowd": 0,
                "segmentation": uncompressed_rle(item.mask),
            }
        )
    return found


def _write_image(
    index: int, folder: Path, preset: Preset, seed: int, split: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    scene = render_scene(preset, seed, split, index)
    image_id = _FIRST_IMAGE_ID[split] + index
    name = f"{image_id:012d}.jpg"
    if not cv2.imwrite(str(folder / name), scene.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
        raise InputError(f"{folder / name} can't be written; is the disk full?")
    height, width = scene.image.shape[:2]
    entry = {"id": image_id, "file_name": name, "width": width, "height": height}
    return entry, _annotations(scene, image_id)


def _use_one_thread() -> None:
    cv2.setNumThreads(1)


def _write_images(
    folder: Path, preset: Preset, seed: int, split: str, count: int, workers: int
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    write = partial(_write_image, folder=folder, preset=preset, seed=seed, split=split)
    if workers <= 1 or count < _SMALL_SET:
        yield from map(write, range(count))
        return
    # Forked children would wait for ever for OpenCV's threads where this process has used them already.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _use_one_thread) as pool:
        yield from pool.map(write, range(count), chunksize=16)


def _write_split(root: Path, description: dict[str, Any], preset: Preset, split: str, workers: int) -> None:
    folder = root / f"{split}2017"
    folder.mkdir()
    count = description[split]
    written = _write_images(folder, preset, description["seed"], split, count, workers)
    images, annotations = [], []
    # The bar appears only if there is something to wait for.
    for entry, found in tqdm(written, desc=f"{split}2017", total=count, unit="img", delay=_QUIET_SECONDS):
        images.append(entry)
        annotations.extend(found)
    categories = [
        {"id": i, "name": c.name, "supercategory": c.family} for i, c in enumerate(preset.categories, start=1)
    ]
    content = {
        "info": {"description": "Generated look-alike shapes", **description},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (root / "annotations").mkdir(exist_ok=True)
    target = root / "annotations" / f"instances_{split}2017.json"
    target.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def _describe(
    preset_name: str, seed: int, train: int | None, val: int | None, size: int | None
) -> tuple[Preset, dict[str, Any]]:
    """Check the arguments; return the preset they amount to, and their record."""
    if preset_name not in PRESETS:
        raise InputError(f"preset '{preset_name}' is unknown; choose from {', '.join(PRESETS)}")
    preset = PRESETS[preset_name]
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed}")
    counts = {"train": preset.train, "val": preset.val}
    counts |= {k: v for k, v in (("train", train), ("val", val)) if v is not None}
    for split, count in counts.items():
        if count < preset.min_images:
            raise InputError(
                f"{split} must be at least {preset.min_images} images, so that each of the "
                f"{len(preset.categories)} categories of preset '{preset_name}' appears; "
                f"got {count}"
            )
    if size is not None and size < preset.size // 2:
        raise InputError(
            f"size must be at least {preset.size // 2} pixels for preset '{preset_name}' (smaller "
            f"images don't show its shapes); got {size}"
        )
    if size is not None:
        preset = preset.resized(size)
    description = {
        "version": GENERATOR_VERSION,
        "preset": preset_name,
        "seed": seed,
        "size": preset.size,
        **counts,
    }
    return preset, description


def _is_complete(root: Path, description: dict[str, Any]) -> bool:
    """Whether ``root`` holds just this data set already.

    Raises:
        InputError: it holds anything else.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give another one")
    if not any(root.iterdir()):
        return False
    stamp = root / _STAMP
    if not stamp.is_file():
        raise InputError(f"{root} is not empty and not a generated data set; give another folder")
    try:
        found = json.loads(stamp.read_text())
    except ValueError as error:
        raise InputError(f"{stamp} can't be read ({error}); delete {root}") from error
    if found != description:
        raise InputError(
            f"{root} holds another generated data set ({found}, wanted {description}); delete it or give another folder"
        )
    for split in SPLITS:
        there = sum(1 for _ in (root / f"{split}2017").glob("*.jpg"))
        if there != description[split]:
            raise InputError(
                f"{root} is damaged: {there} of {description[split]} images in {split}2017; "
                "delete it and write it again"
            )
    return True


def build_dataset(
    root: str | os.PathLike[str],
    preset: str,
    seed: int = 0,
    train: int | None = None,
    val: int | None = None,
    size: int | None = None,
    workers: int | None = None,
) -> bool:
    """Write ``annotations/instances_{train,val}2017.json``, ``train2017/`` and ``val2017/``.

    Boxes ``[x, y, w, h]`` and masks (uncompressed RLE) describe the visible part of each object.
    Equal arguments and versions give equal bytes, whatever ``workers`` is. The folder appears under
    its name only when it is complete.

    Args:
        root: folder to create; it may exist if it is empty.
        preset: a key of ``PRESETS``.
        seed: not negative.
        train, val, size: replace the preset's numbers of images and the images' side in pixels.
        workers: processes; by default one per core, at most 8.

    Returns:
        False if the same data set was there already, True if it was written.

    Raises:
        InputError: an argument is out of range, or ``root`` holds something else.
    """
    root = Path(root)
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    settings, description = _describe(preset, seed, train, val, size)
    if _is_complete(root, description):
        return False
    if workers is None:
        workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename stays within one file system and is atomic.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.partial-", dir=root.parent) as scratch:
        unfinished = Path(scratch) / root.name
        unfinished.mkdir()
        for split in SPLITS:
            _write_split(unfinished, description, settings, split, workers)
        (unfinished / _STAMP).write_text(json.dumps(description) + "\n")
        unfinished.rename(root)
    return True
