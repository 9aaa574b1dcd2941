"""Find the checkpoint to resume from, whenever the last run was killed."""

from __future__ import annotations

import functools
import glob
import logging
import os
import os.path as osp
import re

from mmengine.logging import print_log

from rekd_det.utils.checkpoint import check_checkpoint_file, is_local
from rekd_det.utils.checkpoint_content import meta_of
from rekd_det.utils.errors import CheckpointError

_PERIODIC = re.compile(r"(epoch|iter)_\d+\.pth")


def find_latest_checkpoint(work_dir: str, out_dir: str | None = None) -> str | None:
    """The newest sound training checkpoint of a run.

    It is the one that the file ``last_checkpoint`` names; where that file or the checkpoint is missing or damaged, the
    newest sound ``epoch_*.pth`` or ``iter_*.pth`` beside them. The name is an absolute path; in a folder that was
    copied or moved it means the file of that name there.

    Args:
        work_dir: the run's folder.
        out_dir: where the config's CheckpointHook saves instead, if that is a storage backend.

    Returns:
        Its path, or None if the run has written none.

    Raises:
        CheckpointError: if there are checkpoints but all are damaged (starting from scratch would overwrite them), if
            the only one is another run's, or if ``last_checkpoint`` names a URL, or a storage backend that is not
            ``out_dir``.
    """
    named = named_by_last_checkpoint(work_dir)
    if named is not None:
        if out_dir and not is_local(out_dir) and named.startswith(f"{out_dir.rstrip('/')}/"):
            return named
        if not is_local(named):  # a copied folder must not decide what is fetched from where
            raise CheckpointError(
                f"'{osp.join(work_dir, 'last_checkpoint')}' names '{named}', which is no file of this machine: if you "
                f"trust it, give it with --resume {named}, or remove last_checkpoint"
            )
        named = _own(work_dir, named)
    folders = {work_dir} if named is None else {work_dir, osp.dirname(named) or work_dir}
    found = training_checkpoints(*folders)
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


def earlier_files(work_dir: str) -> list[str]:
    """What a resume would continue or replace: the checkpoints of a folder, also the best, and `last_checkpoint`."""
    others = (glob.glob(osp.join(glob.escape(work_dir), name)) for name in ("best_*.pth", "last_checkpoint"))
    return [*training_checkpoints(work_dir), *(path for found in others for path in found)]


def folder_of_earlier(work_dir: str, timestamp: str) -> str:
    """Where a training that starts in a used folder moves :func:`earlier_files`."""
    return osp.join(work_dir, f"earlier_{timestamp}")


def moved_aside(path: str) -> str | None:
    """Where a later start has moved a checkpoint that is not there any more; None if it is there, or nowhere."""
    local = osp.expanduser(path)
    if not is_local(path) or osp.exists(local):
        return None
    folder = folder_of_earlier(glob.escape(osp.dirname(local)), "*")
    return max(glob.glob(osp.join(folder, glob.escape(osp.basename(local)))), default=None)


def training_checkpoints(*folders: str) -> list[str]:
    """The periodic checkpoints in some folders, ``epoch_*.pth`` and ``iter_*.pth``, the newest first."""
    files = (p for folder in folders for p in glob.glob(osp.join(glob.escape(folder), "*.pth")))
    return sorted((p for p in files if _PERIODIC.fullmatch(osp.basename(p))), key=osp.getmtime, reverse=True)


def _own(work_dir: str, named: str) -> str | None:
    """The path of a named checkpoint in the run's present folder, or in the ``out_dir`` of its CheckpointHook."""
    parts = [part for part in named.split(os.sep) if part not in ("", os.pardir)]  # never outside of the folder
    for start in range(len(parts) - 1, -1, -1):  # its filename_tmpl may name a folder in the work dir
        path = osp.join(work_dir, *parts[start:])
        if osp.isfile(path):
            return path
    # CheckpointHook appends the work dir's name to its out_dir. A folder with a `last_checkpoint` is a work dir itself.
    folder = osp.dirname(osp.abspath(named))
    for parent in (folder, osp.dirname(folder)):
        of_this_name = osp.basename(parent) == osp.basename(osp.abspath(work_dir))
        if of_this_name and not osp.exists(osp.join(parent, "last_checkpoint")):
            return named
    if not osp.isfile(named) or glob.glob(osp.join(glob.escape(work_dir), "*.pth")):
        return None
    raise CheckpointError(
        f"'{osp.join(work_dir, 'last_checkpoint')}' names '{named}', a checkpoint of another run: was the folder "
        "copied without its checkpoints? Give that one with --resume, or remove last_checkpoint to start from scratch"
    )


def check_resumable(path: str) -> dict:
    """Check that a checkpoint is sound and says where its training stood.

    A start asks this of one file again and again; it is read again only if it has changed.

    Args:
        path: the file or URL.

    Returns:
        Its ``meta``, not to be changed.

    Raises:
        CheckpointError: if it is damaged, or holds weights alone.
    """
    try:
        stat = os.stat(osp.expanduser(path))
    except OSError:  # a URL, or no such file
        return _resumable_meta(path)
    # The inode and the time of its change tell a file apart that was given the size and date of the one before.
    return _remembered_meta(path, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@functools.lru_cache(maxsize=1)
def _remembered_meta(path: str, version: tuple[int, ...]) -> dict:
    return _resumable_meta(path)


def _resumable_meta(path: str) -> dict:
    meta = meta_of(check_checkpoint_file(path))
    if not {"epoch", "iter"} <= meta.keys():
        raise CheckpointError(
            f"checkpoint '{path}' has weights but no training state (no meta.iter): start from it with "
            "--cfg-options load_from=..., without --resume"
        )
    return meta


def named_by_last_checkpoint(work_dir: str) -> str | None:
    """What a run's file ``last_checkpoint`` says; None if there is none, or nothing in it."""
    try:
        with open(osp.join(work_dir, "last_checkpoint"), encoding="utf-8", errors="replace") as file:
            return file.read().strip() or None
    except OSError:
        return None
