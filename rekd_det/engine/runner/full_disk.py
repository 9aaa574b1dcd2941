"""Report a full disk when a log or a config can't be written."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from rekd_det.utils.errors import InputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def full_disk_explained(work_dir: str) -> Iterator[None]:
    """Raise InputError for what a full disk raises in the body.

    Args:
        work_dir: the run's folder, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        name = f" '{error.filename}'" if error.filename else ""
        raise InputError(
            f"a file{name} of work_dir '{work_dir}' can't be written ({error.strerror}). The existing "
            "checkpoints are complete: free some space, and continue from the last one with --resume"
        ) from error
