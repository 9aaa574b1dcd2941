"""What the ``type`` in a config names: a class, or the name that a registry knows it by."""

from __future__ import annotations

import inspect
from typing import Any

from mmengine.registry import Registry


def type_name(kind: Any) -> str:
    """The name of a config's ``type`` without its scope or module; an empty string of what is none."""
    return (kind if isinstance(kind, str) else getattr(kind, "__name__", "")).rpartition(".")[2]


def type_class(kind: Any, registry: Registry) -> type | None:
    """The class of a config's ``type``; None of a name that the registry does not know, and of what is no class."""
    found = registry.get(kind) if isinstance(kind, str) else kind
    return found if inspect.isclass(found) else None
