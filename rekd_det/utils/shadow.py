"""Another value of an attribute, for one object and for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shadowed(owner: object, name: str, value: Any) -> Iterator[None]:
    """Hide an attribute of one object or module, its own or its class's, behind ``value`` until the block ends.

    Args:
        owner: the object; others of its class are not affected.
        name: of an attribute, a method or a submodule; not of a property.
        value: what the object has instead.
    """
    attributes = vars(owner)  # torch looks for a submodule only where these lack the name
    own, hidden = name in attributes, getattr(owner, name)
    attributes[name] = value
    try:
        yield
    finally:
        if own:
            attributes[name] = hidden
        else:
            del attributes[name]
