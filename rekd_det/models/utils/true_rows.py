"""Which rows of a mask are True, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def true_rows(mask: Tensor, count: int) -> Tensor:
    """Indices ``(count,)`` of the rows that are True in ``mask`` ``(N,)``, in order.

    Args:
        mask: bool.
        count: how many they are. To ask the mask would wait for the device.
    """
    return mask.to(torch.uint8).argsort(descending=True, stable=True)[:count]
