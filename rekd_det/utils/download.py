"""Download a checkpoint once, and identify it by its complete URL."""

from __future__ import annotations

import hashlib
import os
import os.path as osp
import re
import sys
from collections.abc import Callable
from urllib.parse import unquote, urldefrag, urlparse

import torch
from filelock import FileLock

from rekd_det.utils.atomic import remove_partials, replacing

#: ``name-<the first digits of the file's SHA-256>.pth``, as torch and OpenMMLab publish; a date is not a hash
_HASH = re.compile(r"-(?!(?:19|20)\d{6}\.)([0-9a-f]{8,64})\.")


def fetch(url: str, check: Callable[[str], object]) -> str:
    """The local copy of a URL; it is downloaded where there is none yet.

    Copies are stored in torch's folder of checkpoints (below ``$TORCH_HOME``), one folder for each URL: two URLs with
    the same file name are two files. A file that torch itself has put there is used if its name carries a hash and the
    content agrees. Several processes that ask for one URL download it once.

    Args:
        url: ``http://...`` or ``https://...``.
        check: is called with the path of a download before it is kept, and raises if it is not what was wanted.

    Returns:
        The path.

    Raises:
        OSError: if the server can't be reached or has no such file, or the cache can't be written.
        RuntimeError: if the content has another hash than the name promises.
    """
    url = urldefrag(url).url
    name = osp.basename(unquote(urlparse(url).path)).strip(".") or "checkpoint.pth"
    cache = osp.join(torch.hub.get_dir(), "checkpoints")
    target = osp.join(cache, "by_url", hashlib.sha256(url.encode()).hexdigest()[:16], name)
    if osp.isfile(target):
        return target
    digits = _HASH.search(name)
    by_name = osp.join(cache, name)
    if digits and osp.isfile(by_name) and _sha256(by_name).startswith(digits[1]):
        return by_name
    os.makedirs(osp.dirname(target), exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not osp.isfile(target):  # another process may have been faster
            _download(url, target, digits[1] if digits else None, check)
    return target


def _download(url: str, target: str, digits: str | None, check: Callable[[str], object]) -> None:
    remove_partials(osp.dirname(target))
    print(f"downloading {url} to {target}", file=sys.stderr)
    with replacing(target) as partial:
        torch.hub.download_url_to_file(url, partial, digits, progress=sys.stderr.isatty())
        check(partial)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
