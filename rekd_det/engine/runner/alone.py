"""One training at a time in a work_dir."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from rekd_det.engine.runner.start import in_all
from rekd_det.utils.errors import InputError

_PATIENCE = 20  # seconds: the data workers of a killed training have its lock until they notice, after 5


@contextmanager
def alone_in(work_dir: str) -> Iterator[None]:
    """Keep a second training out of a folder: each would remove and overwrite checkpoints of the other.

    Args:
        work_dir: of the run. The main process holds a lock on a file in it, which the system releases when it ends.

    Raises:
        InputError: in all processes, if another training has the folder.
    """
    lock = FileLock(osp.join(work_dir, ".training.lock"))

    def take() -> None:
        if not is_main_process():
            return
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout as error:
            raise InputError(
                f"another training runs in '{work_dir}': wait for its end and continue it with --resume, or give this "
                "one a folder of its own with --work-dir"
            ) from error
        except (OSError, NotImplementedError) as error:  # some network disks have no locks
            print_log(
                f"'{work_dir}' can't be locked ({error}), so a second training there would not be noticed",
                logger="current",
                level=logging.WARNING,
            )

    in_all(take)
    try:
        yield
    finally:
        lock.release()
