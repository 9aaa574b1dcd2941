"""Say of a file that it is not plain data, in torch's words, and tell by them when torch says so."""

from __future__ import annotations

import pickle
import re

#: How torch begins. There is nothing else to tell by: torch.load makes an error of its own of any UnpicklingError.
_REFUSED = "Weights only load failed"
_NAMED = re.compile(r"(?:GLOBAL|class|function) ([\w.]+)")


def not_plain(what: str) -> pickle.UnpicklingError:
    """The error for a file that carries ``what``: the name of a class or a function, and what is wrong with it."""
    return pickle.UnpicklingError(f"{_REFUSED}: GLOBAL {what}")


def is_not_plain(error: Exception) -> bool:
    """Whether torch.load, or one of the readers here, has refused a file because it is not plain data."""
    return _REFUSED in str(error)


def carried_name(error: Exception) -> str | None:
    """The class or function that a file was refused for; None if its form was the reason."""
    found = _NAMED.search(str(error)) if is_not_plain(error) else None
    return found[1] if found else None
