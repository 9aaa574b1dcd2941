"""The options that a class takes in a config."""

from __future__ import annotations

import inspect


def options_of(kind: type) -> set[str]:
    """Names of the parameters of a class's constructor and of those of its bases, which get what it passes on."""
    return {name for cls in kind.__mro__ for name in inspect.signature(cls).parameters} - {"args", "kwargs"}
