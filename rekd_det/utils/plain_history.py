"""What a checkpoint gets for names of mmengine: a log's values, and the two curves of OneCycleLR."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from rekd_det.utils.not_plain import not_plain

_NAME = "mmengine.logging.history_buffer.HistoryBuffer"


class PlainHistory(HistoryBuffer):
    """Takes the place of ``HistoryBuffer``, and becomes one as soon as it has its values.

    The original makes an array of whatever a file gives it. An object with an ``__array_interface__`` would make that
    an array of any part of the memory.
    """

    def __new__(cls, *args: Any) -> PlainHistory:
        """An empty history: values come by :meth:`__setstate__` alone."""
        if args:
            raise not_plain(f"{_NAME} is called with arguments")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        values = state if type(state) is dict else {}
        # The table of statistics is left out: mmengine takes it over for all histories, and a forged one would decide
        # what the log calls for 'mean'.
        self.max_length = values.get("max_length")
        self._log_history = _numbers(values.get("_log_history"))
        self._count_history = _numbers(values.get("_count_history"))
        if not isinstance(self.max_length, (int, np.integer)) or len(self._log_history) != len(self._count_history):
            raise not_plain(f"{_NAME} has no values")
        self.__class__ = HistoryBuffer


def _numbers(values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "biuf":
        raise not_plain(f"{_NAME} has other values than numbers")
    return np.array(values)


def _attribute(owner: Any, name: Any) -> Any:
    """What a checkpoint gets for the name ``getattr``: one of the names below, and nothing else.

    A HistoryBuffer pickles its own methods as ``getattr(HistoryBuffer, 'mean')``, and gets their names, which
    :class:`PlainHistory` leaves out. The real ``getattr`` would give a forged checkpoint everything.
    """
    HistoryBuffer()  # its first instance registers the statistics
    if owner is PlainHistory and type(name) is str and name in HistoryBuffer._statistics_methods:
        return name
    if owner is _ONE_CYCLE and type(name) is str and name in CURVES:
        return CURVES[name]
    raise not_plain(f"getattr asked for {name!r}")


_ONE_CYCLE = "OneCycleParamScheduler"
#: the functions in the state of OneCycleLR; they compute with three numbers
CURVES = {name: getattr(OneCycleParamScheduler, name) for name in ("_annealing_cos", "_annealing_linear")}
#: what each name in a checkpoint stands for
NAMES = {
    _NAME: PlainHistory,
    f"mmengine.optim.scheduler.param_scheduler.{_ONE_CYCLE}": _ONE_CYCLE,
    "builtins.getattr": _attribute,
}
