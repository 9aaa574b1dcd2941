"""What a pickle gets for NumPy's names and for bytes: arrays and scalars of plain data, and nothing else.

In a forged pickle NumPy's own classes are no mere data: ``numpy.ndarray((1,), "O", buffer=bytes)`` makes Python objects
of any bytes, and so does a dtype whose flags say that its items are pointers. From there it is a short way to code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from rekd_det.utils.not_plain import not_plain

#: numbers, bytes, text and objects; no records, whose fields may hide pointers
_CODE = re.compile(r"[<>=|]?(?:[?bBhHiIlLqQefd]|[biufc]\d+|[SU]\d+|O8?)")


class PlainDtype:
    """Takes the place of ``numpy.dtype``.

    Args:
        code: of the type, such as 'f8'.
        align, copy: as NumPy pickles them; they mean nothing here.
    """

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if type(code) is not str or not _CODE.fullmatch(code):
            raise not_plain(f"numpy.dtype of {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "=", "|") or (subtype, names, fields) != (None, None, None):
            raise not_plain("numpy.dtype with fields")
        self.dtype = self.dtype.newbyteorder(order)

    def check(self, shape: Any, content: Any) -> None:
        """Raise UnpicklingError unless ``content`` fills an array of this type and shape, to the last byte."""
        # NumPy 1 has room for 32 dimensions, and shows its own memory as more.
        plain = type(shape) is tuple and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
        if self.dtype.hasobject:
            fits = plain and type(content) is list and len(content) == math.prod(shape)
        else:
            fits = plain and type(content) is bytes and len(content) == math.prod(shape) * self.dtype.itemsize
        if not fits:
            raise not_plain("numpy.ndarray whose content does not fit its shape")


class PlainArray(np.ndarray):
    """Takes the place of ``numpy.ndarray``; it is pickled as one."""

    def __new__(cls, *args: Any, **kwargs: Any) -> PlainArray:
        """Arrays come from :func:`_reconstruct` alone."""
        raise not_plain("numpy.ndarray")

    def __setstate__(self, state: tuple) -> None:
        if vars(self):  # NumPy would free memory that a view of this array may still use
            raise not_plain("numpy.ndarray that is filled twice")
        self._filled = True
        _, shape, dtype, fortran, content = state
        _of_ours(dtype).check(shape, content)
        # A copy of the bytes: NumPy would share them with whatever else of the pickle has them.
        own = content if type(content) is list else bytes(bytearray(content))
        super().__setstate__((1, shape, dtype.dtype, bool(fortran), own))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).view(np.ndarray).__reduce_ex__(protocol)


def _of_ours(dtype: Any) -> PlainDtype:
    if type(dtype) is not PlainDtype:
        raise not_plain("numpy.dtype")
    return dtype


def _reconstruct(cls: Any, shape: Any, code: Any) -> PlainArray:
    if cls is not PlainArray:
        raise not_plain("numpy._reconstruct")
    return np.ndarray.__new__(PlainArray, (0,), "b")


def _scalar(dtype: Any, content: Any = b"") -> Any:
    kind = _of_ours(dtype)
    kind.check((), content)
    return np.frombuffer(content, kind.dtype, 1)[0]


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    kind = _of_ours(dtype)
    content = bytes(content) if type(content) is bytearray else content
    kind.check(shape, content)
    return np.frombuffer(bytearray(content), kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def encode(text: Any, encoding: Any) -> bytes:
    """How bytes are written in old pickles."""
    if type(text) is not str or encoding != "latin1":
        raise not_plain("_codecs.encode of something else than bytes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How empty ones are written there."""
    return b""


def _names() -> dict[str, Callable]:
    found: dict[str, Callable] = {"numpy.ndarray": PlainArray, "numpy.dtype": PlainDtype}
    found |= {"_codecs.encode": encode, "builtins.bytes": _no_bytes, "__builtin__.bytes": _no_bytes}
    for package in ("numpy.core", "numpy._core"):  # NumPy 2 moved it; a file names whichever its writer had
        found[f"{package}.multiarray._reconstruct"] = _reconstruct
        found[f"{package}.multiarray.scalar"] = _scalar
        found[f"{package}.numeric._frombuffer"] = _frombuffer
    return found


#: what each name in a pickle stands for
NAMES = _names()
