"""Which cases of a parametrised test are part of `make test` and `.ci/run`; `make test-all` runs them all."""

from collections.abc import Collection, Iterable

import pytest


def fast_if(names: Collection[str], cases: Iterable[str]) -> list:
    """The cases, those that are not among ``names`` marked slow and nightly."""
    marks = (pytest.mark.slow, pytest.mark.nightly)
    return [case if case in names else pytest.param(case, marks=marks) for case in cases]
