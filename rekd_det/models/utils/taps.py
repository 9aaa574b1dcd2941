"""Record the calls of modules of the student while it computes its losses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn

from rekd_det.utils.shadow import shadowed

#: called after the tapped module with its positional arguments, keyword arguments and output
OnCall = Callable[[tuple, dict[str, Any], Any], None]


class TapSet(ExitStack):
    """Forward hooks that exist only inside a ``with`` block, also when the block raises."""

    def add(self, module: nn.Module, on_call: OnCall) -> None:
        """Call ``on_call(args, kwargs, output)`` after each forward of ``module`` until the block ends."""

        def hook(_: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            on_call(args, kwargs, output)

        handle = module.register_forward_hook(hook, with_kwargs=True)
        self.callback(handle.remove)

    def add_method(self, owner: object, name: str, on_call: OnCall) -> None:
        """The same for a method of one object, where mmdet computes something outside any module."""
        method = getattr(owner, name)

        def tapped(*args: Any, **kwargs: Any) -> Any:
            output = method(*args, **kwargs)
            on_call(args, kwargs, output)
            return output

        self.enter_context(shadowed(owner, name, tapped))


def argument(args: tuple, kwargs: dict[str, Any], position: int, name: str) -> Any:
    """An argument that callers may pass by position or by name; None where they pass neither."""
    return args[position] if len(args) > position else kwargs.get(name)
