"""What the ``type`` in a config names, a class or the name that a registry knows it by, and where it is looked up."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry


def default_scope(config: Mapping) -> str:
    """The package in whose registries a config's names are looked up; mmengine's new style leaves it unset."""
    return config.get("default_scope") or "mmdet"


def type_name(kind: Any) -> str:
    """The name of a config's ``type`` without its scope or module; an empty string of what is none."""
    return (kind if isinstance(kind, str) else getattr(kind, "__name__", "")).rpartition(".")[2]


def type_class(kind: Any, registry: Registry) -> type | None:
    """The class of a config's ``type``; None of a name that the registry does not know, and of what is no class."""
    found = registry.get(kind) if isinstance(kind, str) else kind
    return found if inspect.isclass(found) else None
