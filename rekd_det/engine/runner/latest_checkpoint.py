"""Find the checkpoint to resume from, whatever moment the last run was killed at."""

from __future__ import annotations

import glob
import logging
import os.path as osp
import re

from mmengine.logging import print_log

from rekd_det.utils.checkpoint import CheckpointError, check_checkpoint_file, is_local

_PERIODIC = re.compile(r"(epoch|iter)_\d+\.pth")


def find_latest_checkpoint(work_dir: str) -> str | None:
    """The newest sound training checkpoint of a run.

    It is the one that the file ``last_checkpoint`` names; where that file or the checkpoint is missing or damaged, the
    newest sound ``epoch_*.pth`` or ``iter_*.pth`` beside them.

    Args:
        work_dir: the run's folder.

    Returns:
        Its path, or None if the run has written none.

    Raises:
        CheckpointError: if there are checkpoints but all are damaged. Starting from scratch would overwrite them.
    """
    named = _named_by_last_checkpoint(work_dir)
    if named is not None and not is_local(named):
        return named  # on a storage backend, which reads and checks it
    # CheckpointHook.out_dir may lie elsewhere; and the whole folder may have moved since the name was written.
    folders = {work_dir} if named is None else {work_dir, osp.dirname(named) or work_dir}
    files = (p for folder in folders for p in glob.glob(osp.join(glob.escape(folder), "*.pth")))
    found = [p for p in files if _PERIODIC.fullmatch(osp.basename(p))]
    found.sort(key=osp.getmtime, reverse=True)
    if named is not None:
        found = [named, *(p for p in found if p != named)]
    faults = []
    for path in found:
        try:
            check_resumable(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            print_log(f"passed over on resuming: {fault}", logger="current", level=logging.WARNING)
        return path
    if any(osp.exists(p) for p in found):
        raise CheckpointError(
            f"no checkpoint in '{work_dir}' can be resumed from ({'; '.join(faults)}). Name another with --resume, "
            "or remove these to start from scratch"
        )
    return None


def check_resumable(path: str) -> dict:
    """Check that a local checkpoint is sound and says where its training stood.

    Args:
        path: the file.

    Returns:
        Its ``meta``.

    Raises:
        CheckpointError: if it is damaged, or holds weights alone.
    """
    meta = check_checkpoint_file(path).get("meta")
    if not isinstance(meta, dict) or not {"epoch", "iter"} <= meta.keys():
        raise CheckpointError(
            f"checkpoint '{path}' holds weights but no training to go on with (no meta.iter): start from it with "
            "--cfg-options load_from=..., without --resume"
        )
    return meta


def _named_by_last_checkpoint(work_dir: str) -> str | None:
    try:
        with open(osp.join(work_dir, "last_checkpoint"), encoding="utf-8", errors="replace") as file:
            return file.read().strip() or None
    except FileNotFoundError:
        return None
