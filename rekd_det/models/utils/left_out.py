"""Leave out layers that a head runs although nothing reads what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from rekd_det.utils.shadow import shadowed


@contextmanager
def left_out(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let convolutions give zeros, without a convolution, until the block ends.

    The head's own forward goes on through them, and its other outputs stay bit-identical.

    Args:
        layers: convolutions that keep the height and width of a map.
    """
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(shadowed(layer, "forward", _zeros(layer)))
        yield


def _zeros(layer: Any) -> Callable[..., Tensor]:
    def forward(x: Tensor, *_: Any) -> Tensor:
        return x.new_zeros(len(x), layer.out_channels, *x.shape[2:])

    return forward
