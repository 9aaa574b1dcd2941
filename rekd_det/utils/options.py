"""The options that a class takes in a config."""

from __future__ import annotations

import inspect
from contextlib import suppress


def options_of(kind: type) -> set[str]:
    """Names of the parameters of a class's constructor, and of its bases' as far as it passes ``**kwargs`` on."""
    found: set[str] = set()
    for cls in kind.__mro__:
        with suppress(ValueError):  # some builtin types, as dict, have no signature
            parameters = inspect.signature(cls).parameters.items()
            found |= {name for name, x in parameters if x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)}
            if not any(x.kind == x.VAR_KEYWORD for _, x in parameters):
                break
    return found
