"""The registries of OpenMMLab's packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import mmengine.registry
from mmengine.registry import Registry


def registries() -> Iterator[Registry]:
    """Every registry of the imported packages, a package's classes registered before it comes."""
    modules = [mmengine.registry, *filter(None, [sys.modules.get("mmpretrain.registry")])]  # some are its own alone
    todo = [r for m in modules for r in vars(m).values() if isinstance(r, Registry) and r.parent is None]
    while todo:
        registry = todo.pop()
        if registry.scope == "mmdet":
            registry.import_from_location()  # it registers its classes when they are first asked for
        yield registry
        todo += registry.children.values()
