"""The options that a class takes in a config."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress


def options_of(kind: type) -> set[str]:
    """Names of the parameters of a class's constructor and of those of its bases, which get what it passes on."""
    return {name for cls in kind.__mro__ for name in _named_parameters(cls)}


def _named_parameters(cls: type) -> Iterator[str]:
    with suppress(ValueError):  # some builtin types, as dict, have no signature
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                yield name
