"""What a checkpoint gets for mmengine's HistoryBuffer: a log's values, and nothing else."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

_NAME = "mmengine.logging.history_buffer.HistoryBuffer"
_REFUSED = f"Weights only load failed: GLOBAL {_NAME}"  # how torch words it; messages look for this


class PlainHistory(HistoryBuffer):
    """Takes the place of ``HistoryBuffer``, and becomes one as soon as it has its values.

    The original makes an array of whatever a file gives it. An object with an ``__array_interface__`` would make that
    an array of any part of the memory.
    """

    def __new__(cls, *args: Any) -> PlainHistory:
        """An empty history: values come by :meth:`__setstate__` alone."""
        if args:
            raise pickle.UnpicklingError(f"{_REFUSED} is called with arguments")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        values = state if type(state) is dict else {}
        # The table of statistics is left out: mmengine takes it over for all histories, and a forged one would decide
        # what the log calls for 'mean'.
        self.max_length = values.get("max_length")
        self._log_history = _numbers(values.get("_log_history"))
        self._count_history = _numbers(values.get("_count_history"))
        if type(self.max_length) is not int or len(self._log_history) != len(self._count_history):
            raise pickle.UnpicklingError(f"{_REFUSED} has no values")
        self.__class__ = HistoryBuffer


def _numbers(values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"{_REFUSED} has other values than numbers")
    return np.asarray(values).view(np.ndarray)


def _statistic(owner: Any, name: Any) -> str:
    """What a checkpoint gets for the name ``getattr``: the name of a statistic, which is left out anyway.

    A HistoryBuffer pickles its own methods as ``getattr(HistoryBuffer, 'mean')``. The real ``getattr``, or a real
    method, would be something that a forged checkpoint can call.
    """
    HistoryBuffer()  # its first instance registers the statistics
    if owner is not PlainHistory or type(name) is not str or name not in HistoryBuffer._statistics_methods:
        raise pickle.UnpicklingError(f"Weights only load failed: GLOBAL getattr asked for {name!r}")
    return name


#: what each name in a checkpoint stands for
NAMES = {_NAME: PlainHistory, "builtins.getattr": _statistic}
