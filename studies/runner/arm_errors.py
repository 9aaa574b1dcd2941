"""Name the arm whose config can't be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rekd_det.apis.build_errors import explain_build_error
from rekd_det.utils.errors import InputError


@contextmanager
def naming(arm: str) -> Iterator[None]:
    """Put an arm's name in front of an error, whatever kind a user's own class raises.

    Args:
        arm: its name.

    Raises:
        InputError: in place of any error.
    """
    try:
        yield
    except Exception as error:
        raise InputError(f"arm '{arm}': {explain_build_error(error) or error}") from error
