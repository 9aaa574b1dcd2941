"""Read a pickle as data: containers, numbers, arrays, tensors and data samples."""

from __future__ import annotations

import collections
import copyreg
import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData, LabelData, PixelData

from rekd_det.utils import plain_arrays
from rekd_det.utils.errors import InputError
from rekd_det.utils.read_as_data import allowed_by_user, load_plain

_ELEMENTS = (BaseDataElement, DetDataSample, InstanceData, LabelData, PixelData)
_DICTS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
_LISTS = (list, collections.deque)
#: classes that are called with plain values
_CALLED = (
    *(set, frozenset, complex, bytearray, slice, range, torch.Size, torch.device),
    *(collections.OrderedDict, collections.defaultdict, collections.Counter, collections.deque),
)
#: classes that are only named, as what a defaultdict makes
_NAMED = (object, list, dict, set, int, float, str, tuple, bool)
_PLAIN = (type(None), bool, int, float, str, bytes, tuple, list, dict)


class DataUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Calls, fills and gives attributes to nothing but what data consists of.

    The unpickler in C calls whatever a file has got hold of, and sets items and attributes of anything, also of classes
    and functions. This is the one in Python, whose instructions can be checked first.
    """

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]
    stack: list[Any]
    metastack: list[list[Any]]

    def __init__(self, file: Any, **kwargs: Any) -> None:
        super().__init__(file, **kwargs)
        self._users = allowed_by_user()

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for.

        Raises:
            InputError: if it is none of data, and the user has not allowed it.
        """
        found = _ALLOWED.get(f"{module}.{name}") or self._users.get(f"{module}.{name}")
        if found is None:
            raise InputError(f"{module}.{name}")
        return found

    def check_call(self) -> None:
        """Before a call of what the file names: ``stack[-2](*stack[-1])``."""
        function, arguments = self.stack[-2:]
        if any(function is own for own in self._users.values()):
            return
        if type(arguments) is not tuple:
            fits = False
        elif any(function is kind for kind in _ELEMENTS):
            fits = not arguments
        elif any(function is kind for kind in _CALLED):
            fits = all(type(x) in _PLAIN or any(x is kind for kind in _NAMED) for x in arguments)
        else:
            fits = any(function is own for own in _FUNCTIONS.values())
        if not fits:
            raise InputError(f"a call of {getattr(function, '__name__', type(function).__name__)}")

    def check_target(self, target: Any, kinds: tuple[type, ...]) -> None:
        """Before items are put into something."""
        if type(target) not in kinds and type(target) not in self._users.values():
            raise InputError(f"items of a {type(target).__name__}")

    def check_state(self) -> None:
        """Before attributes are set: ``stack[-1]``, of ``stack[-2]``."""
        state, kind = self.stack[-1], type(self.stack[-2])
        if kind in (plain_arrays.PlainArray, plain_arrays.PlainDtype) or kind in self._users.values():
            return
        # A field that hides a method would decide what the data set calls.
        if not (
            kind in _ELEMENTS
            and type(state) is dict
            and all(type(key) is str and not key.startswith("__") and not hasattr(kind, key) for key in state)
            and all(type(state.get(key, set())) is set for key in ("_metainfo_fields", "_data_fields"))
        ):
            raise InputError(f"attributes of a {kind.__name__}")

    def refuse(self) -> None:
        """An instruction that no pickle of data has."""
        raise InputError("an instance in another form")


def _checked(instruction: bytes, check: Callable[[Any], None]) -> None:
    follow = pickle._Unpickler.dispatch[instruction[0]]  # type: ignore[attr-defined]

    def run(self: Any) -> None:
        check(self)
        follow(self)

    DataUnpickler.dispatch[instruction[0]] = run


for _name in (pickle.REDUCE, pickle.NEWOBJ):
    _checked(_name, DataUnpickler.check_call)
for _name in (pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
    _checked(_name, DataUnpickler.refuse)
_checked(pickle.BUILD, DataUnpickler.check_state)
_checked(pickle.SETITEM, lambda self: self.check_target(self.stack[-3], _DICTS))
_checked(pickle.SETITEMS, lambda self: self.check_target(self.metastack[-1][-1], _DICTS))
_checked(pickle.APPEND, lambda self: self.check_target(self.stack[-2], _LISTS))
_checked(pickle.APPENDS, lambda self: self.check_target(self.metastack[-1][-1], _LISTS))
_checked(pickle.ADDITEMS, lambda self: self.check_target(self.metastack[-1][-1], (set,)))


def _reconstructor(kind: Any, base: Any, state: Any) -> Any:
    """How protocols 0 and 1 make an instance."""
    if kind not in _ELEMENTS or base is not object or state is not None:
        raise InputError("copyreg._reconstructor")
    return copyreg._reconstructor(kind, base, state)  # type: ignore[attr-defined]


def _storage(content: Any) -> Any:
    """Replaces ``torch.storage._load_from_bytes``, which loads anything."""
    if type(content) is not bytes:
        raise InputError("torch.storage._load_from_bytes")
    found = load_plain(io.BytesIO(content))
    if type(found) is not torch.storage.TypedStorage:
        raise InputError("torch.storage._load_from_bytes")
    return found


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, *_: Any) -> Any:
    """Replaces ``torch._utils._rebuild_tensor_v2``; without hooks."""
    if type(storage) is not torch.storage.TypedStorage:
        raise InputError("torch._utils._rebuild_tensor_v2")
    held = storage._untyped_storage.nbytes()
    tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, collections.OrderedDict())
    if storage._untyped_storage.nbytes() != held:  # it has grown by uninitialised memory
        raise InputError("a tensor that is larger than its storage")
    return tensor


_FUNCTIONS: dict[str, Any] = {
    **plain_arrays.NAMES,
    "copyreg._reconstructor": _reconstructor,
    "copy_reg._reconstructor": _reconstructor,
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
_ALLOWED: dict[str, Any] = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in (*_CALLED, *_NAMED, *_ELEMENTS)}
_ALLOWED.update({f"__builtin__.{kind.__name__}": kind for kind in _ALLOWED.values() if kind.__module__ == "builtins"})
_ALLOWED.update({"__builtin__.xrange": range, "__builtin__.unicode": str, **_FUNCTIONS})
