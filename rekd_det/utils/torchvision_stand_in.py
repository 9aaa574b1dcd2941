"""Let MMPretrain be imported where torchvision is not installed.

Four of its modules import torchvision at their top: two for functions on boxes, two for transforms of PIL images. No
classifier and no usual pipeline needs any of it. So only while these modules are executed, ``import torchvision`` finds
the names that they ask for; using one of them raises an ImportError that says so. Nobody else ever sees a torchvision.
"""

from __future__ import annotations

import enum
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

_NEED_TORCHVISION = {
    "mmpretrain.datasets.transforms.formatting",
    "mmpretrain.datasets.transforms.processing",
    "mmpretrain.evaluation.metrics.visual_grounding_eval",
    "mmpretrain.models.utils.box_utils",
}
_NAMES = (
    "torchvision",
    "torchvision.ops",
    "torchvision.ops.boxes",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.transforms.transforms",
)


def install() -> None:
    """Serve the stand-in to MMPretrain's modules, unless torchvision is installed. Calling it again does nothing."""
    if importlib.util.find_spec("torchvision") is None and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds MMPretrain's modules that import torchvision; all others are left to the finders behind it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _NEED_TORCHVISION else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Executes a module while the stand-in can be imported."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        with _importable():
            self._loader.exec_module(module)


@contextmanager
def _importable() -> Iterator[None]:
    added = {name: _module(name) for name in _NAMES if name not in sys.modules}
    sys.modules.update(added)
    for name, module in added.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name, "Stand-in: torchvision is not installed.")
    if name.startswith("torchvision.transforms"):
        module.__dict__.update(RandomResizedCrop=_RandomResizedCrop, InterpolationMode=_InterpolationMode)

    def missing(attribute: str) -> Any:
        if attribute.startswith("__"):  # what Python's own machinery looks for
            raise AttributeError(attribute)
        raise _not_installed(f"{name}.{attribute}")

    module.__dict__["__getattr__"] = missing
    return module


class _RandomResizedCrop:
    """MMPretrain derives a class of its own from torchvision's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise _not_installed("torchvision.transforms.RandomResizedCrop")


_InterpolationMode = enum.Enum("_InterpolationMode", "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")


def _not_installed(name: str) -> ImportError:
    return ImportError(f"{name} is needed here, and torchvision is not installed: install the one that fits your torch")
