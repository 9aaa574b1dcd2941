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
        name: of an attribute or a method; not of a parameter or a submodule, which torch keeps elsewhere.
        value: what the object has instead.
    """
    own = name in vars(owner)
    hidden = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, hidden)
        else:
            delattr(owner, name)
