"""Write files that are never visible half-written, and that survive a crash of the machine."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator

_SUFFIX = ".partial"


@contextlib.contextmanager
def replacing(target: str | os.PathLike) -> Iterator[str]:
    """Write a file under a temporary name, and rename it when it is complete.

    A reader of ``target`` sees the old file or the new one, never a part. When this returns, the new file is on
    the disk: content and name. If the body or the disk fails, ``target`` is as it was, and nothing else is left.

    Args:
        target: the file; its folder must exist.

    Yields:
        The path to write to: in the same folder, hidden, and of this process alone.
    """
    folder, name = os.path.split(os.fspath(target))
    partial = os.path.join(folder, f".{name}.{os.getpid()}{_SUFFIX}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())  # a machine that dies must not leave the name without the content
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise
    _sync_folder(folder or ".")


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Write a small text file so that at every moment it holds either the old or the new text."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)


def remove_partials(folder: str | os.PathLike) -> list[str]:
    """Remove unfinished files of killed processes from a folder that only this run writes to.

    Returns:
        The paths of the removed files.
    """
    found = glob.glob(os.path.join(glob.escape(os.fspath(folder)), f".*{_SUFFIX}"))
    removed = [path for path in found if os.path.isfile(path)]
    for path in removed:
        os.remove(path)
    return removed


def _sync_folder(folder: str) -> None:
    """Bring a rename to the disk, as far as the file system can."""
    if os.name != "posix":  # elsewhere a folder can't be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
