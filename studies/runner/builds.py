"""Which build of a teacher or of a backbone the runs of a study had."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rekd_det.engine.runner.latest_checkpoint import find_latest_checkpoint
from rekd_det.utils.checkpoint import load_checkpoint_file
from studies.runner.run import Run
from studies.runner.stamp import read_stamp


def build_of(run: Run, folder: Path) -> dict[str, str] | None:
    """What tells one build of a run from another.

    Args:
        run: others build on it.
        folder: its own.

    Returns:
        The time of its end, and a digest of its weights if its checkpoint is still there; None if it is not finished.
        On two machines the same run may differ in a weight's last bits, and then in all that is trained from it.
    """
    result, checkpoint = read_stamp(folder, run.digest).result, find_latest_checkpoint(str(folder))
    if result is None:
        return None
    weights = {} if checkpoint is None else {"weights": digest_of_weights(Path(checkpoint))}
    return {"run": run.folder, "finished": result["finished"], **weights}


def rebuilt_section(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of the report on teachers and backbones of which the finished runs had several builds."""
    builds: dict[str, dict[str, str | None]] = {}
    for line in results:
        for name in ("teacher", "backbone"):
            build = line.get(name)
            if line["status"] == "ok" and build:
                ends = builds.setdefault(build["run"], {})
                # Lines of earlier versions have no digest of the weights.
                ends[build["finished"]] = build.get("weights") or ends.get(build["finished"])
    return [
        f"**`{run}` was trained again in between**: the runs that need it had its builds of "
        f"{', '.join(sorted(ends))}. A difference between runs of two builds is not of the arms alone.\n"
        for run, ends in builds.items()
        if len({weights or finished for finished, weights in ends.items()}) > 1
    ]


def digest_of_weights(checkpoint: Path) -> str:
    """A digest of a checkpoint's ``state_dict``: names, types, shapes and values."""
    return _digest_of_file(checkpoint, checkpoint.stat().st_mtime_ns)


@functools.cache
def _digest_of_file(checkpoint: Path, changed: int) -> str:
    """All that build on a checkpoint ask for it."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_checkpoint_file(str(checkpoint))["state_dict"].items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
