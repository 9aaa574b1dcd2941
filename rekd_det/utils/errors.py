"""The error that the command-line tools print without a traceback, and what its message suggests."""

from __future__ import annotations

import difflib
import os.path as osp
import traceback
from collections.abc import Collection, Iterable

#: how many names a message lists
_LISTED = 20


class InputError(ValueError):
    """A mistake in the user's input; the message names it and says how to fix it."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or does not fit the model."""


def did_you_mean(name: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """The end of a message about an unknown name: the most similar known one; empty if none is as similar as that."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=similarity)
    return f"; did you mean '{close[0]}'?" if close else ""


def closest_or_all(name: str, known: Iterable[str]) -> str:
    """As :func:`did_you_mean`; of an unknown name that is similar to none, all that are known."""
    return did_you_mean(name, known) or f": it has {', '.join(sorted(known))}"


def listing(names: Collection) -> str:
    """Names in a message, the first of many."""
    first = ", ".join(repr(name) for name in list(names)[:_LISTED])
    return f"{first}, ..." if len(names) > _LISTED else first or "(none)"


def one_line(error: BaseException) -> str:
    """An error's message without line breaks; of a KeyError, whose text is a repr, what it was raised with."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split())


def raised_in(error: BaseException) -> str:
    """Where an error was raised, for a message: the end of the file's path, and the line."""
    raised = traceback.extract_tb(error.__traceback__)[-1]
    return f"{osp.join(*raised.filename.split(osp.sep)[-3:])}:{raised.lineno}"
