"""Read pickles and YAML as data: proposals, annotations and results are not code."""

from __future__ import annotations

import collections
import copyreg
import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from mmdet.structures import DetDataSample
from mmengine.fileio import get_local_path
from mmengine.fileio.handlers import PickleHandler, YamlHandler
from mmengine.structures import BaseDataElement, InstanceData, LabelData, PixelData

from rekd_det.utils import plain_arrays
from rekd_det.utils.errors import InputError
from rekd_det.utils.read_as_data import allowed_by_user, load_plain


class _DataYamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, and tuples, which mmengine writes.

    libyaml's parser where PyYAML has it: for each `mmdet::` in a config, mmengine reads mmdet's hundred metafiles.
    """


_DataYamlLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


class DataPickleHandler(PickleHandler):
    """mmengine's handler of pickles, which loads containers, numbers, arrays, tensors and data samples alone."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Read one object.

        Raises:
            InputError: if the pickle carries anything else, or is damaged.
        """
        try:
            return _DataUnpickler(file, **kwargs).load()
        except InputError as error:
            raise InputError(
                f"a pickle that the config names (a .pkl file of proposals or annotations) carries code ({error}) and "
                "was refused: loading it could run anything. If you trust who made it, allow the class with "
                "torch.serialization.add_safe_globals([...]) in a module of `custom_imports`"
            ) from error
        except Exception as error:  # a damaged pickle may raise almost any exception
            raise InputError(
                "a pickle that the config names (a .pkl file of proposals or annotations) is damaged or none "
                f"({type(error).__name__}: {error})"
            ) from error


class DataYamlHandler(YamlHandler):
    """mmengine's handler of YAML, without the tags that call Python."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Read one document; tuples, which mmengine writes, are read as such."""
        return yaml.load(file, **{"Loader": _DataYamlLoader, **kwargs})


class _DataUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """In Python, because the one in C sets attributes of whatever a file names, also of classes and functions."""

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: Any, **kwargs: Any) -> None:
        super().__init__(file, **kwargs)
        self._users = allowed_by_user()

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get(f"{module}.{name}") or self._users.get(f"{module}.{name}")
        if found is None:
            raise InputError(f"{module}.{name}")
        return found

    def load_build(self) -> None:
        state, kind = self.stack[-1], type(self.stack[-2])  # type: ignore[attr-defined]
        by_file = kind in (plain_arrays.PlainArray, plain_arrays.PlainDtype) or kind in self._users.values()
        # A field that hides a method would decide what the data set calls.
        if not by_file and not (
            kind in _ELEMENTS
            and type(state) is dict
            and all(type(key) is str and not key.startswith("__") and not hasattr(kind, key) for key in state)
        ):
            raise InputError(f"attributes of a {kind.__name__}")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build


def read_relations(dataset: Any, hierarchy_file: str) -> np.ndarray:
    """In the place of ``OpenImagesChallengeDataset._get_relation_matrix``, which allows pickles in the file.

    Returns:
        ``(classes, classes)``: which category is which one's parent.

    Raises:
        InputError: if the file is not an array of numbers.
    """
    with get_local_path(hierarchy_file, backend_args=dataset.backend_args) as path:
        try:
            return np.load(path)[1:, 1:]
        except (ValueError, EOFError, IndexError) as error:
            raise InputError(f"hierarchy_file={hierarchy_file!r} is not a NumPy matrix of numbers: {error}") from error


def _tensor_bytes(content: bytes) -> Any:
    """Replaces torch's function for this purpose, which loads anything."""
    return load_plain(io.BytesIO(content))


def _allowed() -> dict[str, Callable]:
    classes = [
        *(object, set, frozenset, complex, bytes, bytearray, slice, range, list, dict, int, float, str, tuple, bool),
        *(collections.OrderedDict, collections.defaultdict, collections.Counter, collections.deque),
        *(torch.Size, torch.device),
    ]
    found: dict[str, Any] = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes}
    found.update({f"__builtin__.{cls.__name__}": cls for cls in classes if cls.__module__ == "builtins"})  # Python 2's
    found["copy_reg._reconstructor"] = copyreg._reconstructor  # type: ignore[attr-defined]
    found["copyreg._reconstructor"] = copyreg._reconstructor  # type: ignore[attr-defined]
    for cls in _ELEMENTS:
        found[f"{cls.__module__}.{cls.__qualname__}"] = cls
    found.update(plain_arrays.NAMES)
    found["_codecs.encode"] = _encode
    found["torch._utils._rebuild_tensor_v2"] = torch._utils._rebuild_tensor_v2
    found["torch.storage._load_from_bytes"] = _tensor_bytes
    return found


def _encode(text: str, encoding: str) -> bytes:
    """How bytes are written in old pickles."""
    if encoding != "latin1":
        raise InputError(f"_codecs.encode to {encoding}")
    return text.encode(encoding)


_ELEMENTS = (BaseDataElement, DetDataSample, InstanceData, LabelData, PixelData)
_ALLOWED = _allowed()
