"""The options that a class takes in a config."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import suppress

from rekd_det.utils.errors import InputError, closest_or_all, did_you_mean


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


def check_known(key: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise InputError for the first of the ``given`` options that is not a known one; ``key`` is what has them."""
    for option in sorted(set(given) - set(known) - {"type", "_scope_"}):
        raise InputError(f"{key} has no option '{option}'{closest_or_all(option, known)}")


def check_options(kind: type, config: Iterable[str], key: str) -> None:
    """Raise TypeError for an option in a config that its class has not.

    Args:
        kind: the class.
        config: names of the options, ``type`` among them.
        key: the config key that they stand under.
    """
    known = options_of(kind)
    unknown = sorted(set(config) - known - {"type", "_scope_"})
    if unknown:
        raise TypeError(
            f"{key} has no option {', '.join(unknown)}; {kind.__name__} takes {', '.join(sorted(known))}"
            f"{did_you_mean(unknown[0], known)}"
        )
