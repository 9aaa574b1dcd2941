"""The registries of OpenMMLab's packages."""

from __future__ import annotations

from collections.abc import Iterator

import mmengine.registry
from mmengine.registry import Registry


def registries() -> Iterator[Registry]:
    """Every registry of the imported packages, a package's classes registered before it comes."""
    todo = [r for r in vars(mmengine.registry).values() if isinstance(r, Registry)]
    while todo:
        registry = todo.pop()
        if registry.scope == "mmdet":
            registry.import_from_location()  # it registers its classes when they are first asked for
        yield registry
        todo += registry.children.values()
