"""Let ``torch.load`` read a checkpoint without executing anything in it."""

from __future__ import annotations

import collections
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import _weights_only_unpickler as unpickler
from torch import serialization

from rekd_det.utils import plain_arrays, plain_history
from rekd_det.utils.legacy_checkpoint import load_legacy
from rekd_det.utils.not_plain import not_plain

#: What training checkpoints hold. Torch allows more: functions that call what a file gives them, or set attributes of
#: classes and functions.
_TORCH = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)"
    r"|torch\.(cuda\.)?\w+Storage|torch\.(Size|device)|torch\.nn\.parameter\.Parameter"
    r"|torch\._utils\._rebuild_(tensor(_v\d)?|parameter)"
)
#: Packages of torch that add their own classes to what users allow.
_ADDED_BY_TORCH = ("torch.distributed", "torch.nested", "torch._dynamo")
_SWITCH = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
_switching = threading.RLock()


@contextmanager
def reading_as_data() -> Iterator[None]:
    """Make every ``torch.load`` of this process read data alone, and let it read what mmengine saves beside weights.

    That is the message hub (``HistoryBuffer``) with NumPy's arrays and scalars. A file that names anything else is
    refused, unless the user has allowed it with ``torch.serialization.add_safe_globals``; so is one that lacks data.
    """
    with _switching:
        theirs = unpickler._get_allowed_globals, unpickler._get_user_allowed_globals
        their_legacy_load = serialization._legacy_load
        ours, users = _allowed(theirs[0]()), allowed_by_user()
        switch = {name: os.environ.pop(name, None) for name in _SWITCH}
        os.environ[_SWITCH[0]] = "1"
        unpickler._get_allowed_globals = lambda: ours  # type: ignore[assignment]
        unpickler._get_user_allowed_globals = lambda: users
        serialization._legacy_load = load_legacy  # type: ignore[assignment]
        try:
            yield
        finally:
            unpickler._get_allowed_globals, unpickler._get_user_allowed_globals = theirs
            serialization._legacy_load = their_legacy_load
            del os.environ[_SWITCH[0]]
            os.environ.update({name: value for name, value in switch.items() if value is not None})


def load_plain(file: Any, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """``torch.load``, of data alone.

    Raises:
        Exception: of any kind if the file is damaged or carries code; torch's, or an UnpicklingError that is worded so.
    """
    with reading_as_data():
        content = torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    check_plain(content)
    return content


def _allowed(torchs: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in torchs.items() if isinstance(value, torch.dtype) or _TORCH.fullmatch(name)}
    return {**kept, **_REPLACED}


def _bytearray(content: Any, encoding: Any = "latin1") -> bytearray:
    if type(content) is str:
        content = plain_arrays.encode(content, encoding)
    if type(content) is not bytes:  # of an array of objects: their addresses
        raise not_plain("bytearray of something else than bytes")
    return bytearray(content)


# A type of storage, as all others are in a checkpoint: the class would take any attributes.
_BYTES = serialization.StorageType("ByteStorage")
_REPLACED = {
    **plain_arrays.NAMES,
    **plain_history.NAMES,
    "builtins.bytearray": _bytearray,
    "torch.storage.UntypedStorage": _BYTES,
}


def allowed_by_user() -> dict[str, Any]:
    """What ``torch.serialization.add_safe_globals`` allows, by its name in a pickle.

    Without what torch has added, and without the originals of what is replaced here.
    """
    named = (
        entry if isinstance(entry, tuple) else (entry, f"{entry.__module__}.{entry.__qualname__}")
        for entry in serialization.get_safe_globals()
    )
    return {name: x for x, name in named if name not in _REPLACED and not name.startswith(_ADDED_BY_TORCH)}


def check_plain(content: Any) -> None:
    """Raise UnpicklingError unless a checkpoint is made of plain data, tensors, and what the user has allowed.

    Containers may not have attributes: a forged one may hide its own methods. ``_metadata`` is the exception, where
    torch keeps the versions of the modules.

    Args:
        content: what ``torch.load`` returned.
    """
    known = (*_LEAVES, *(kind for kind in allowed_by_user().values() if isinstance(kind, type)))
    pending, seen = [content], set()
    while pending:
        value = pending.pop()
        kind = type(value)
        if id(value) in seen or kind in known or any(value is curve for curve in plain_history.CURVES.values()):
            continue
        seen.add(id(value))
        if kind in (dict, collections.OrderedDict, collections.Counter):
            attributes = {} if kind is dict else vars(value)
            if attributes.keys() - {"_metadata"}:
                raise not_plain(f"{kind.__name__} with attributes of its own")
            pending += [*attributes.values(), *dict.keys(value), *dict.values(value)]
        elif kind in (list, tuple, set, torch.Size):
            pending += value
        elif kind in (torch.Tensor, torch.nn.Parameter):
            pending.append(value._backward_hooks)
        elif isinstance(value, np.ndarray):
            pending += np.asarray(value).view(np.ndarray).ravel().tolist() if value.dtype.hasobject else ()
        elif kind is torch.storage.TypedStorage:
            if vars(value).keys() != {"dtype", "_untyped_storage"}:
                raise not_plain("TypedStorage with attributes of its own")
            pending.append(value._untyped_storage)
        elif not isinstance(value, np.generic):
            raise not_plain(f"{kind.__module__}.{kind.__qualname__}")


_LEAVES = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(torch.device, torch.dtype, torch.UntypedStorage, HistoryBuffer),
)
