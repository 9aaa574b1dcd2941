"""Let a frozen transformer compute what a trained one would, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def same_kernels(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Mark a frozen network's weights as requiring gradient while it computes under ``no_grad``.

    Whether a weight requires gradient decides how torch folds the product with a transposed input into one matrix
    product, as in the projections of attention; the two ways differ by some 5e-6 in the logits. Under ``no_grad``
    nothing is recorded either way.

    Args:
        weights: the network's parameters; none of them requires gradient before or after.
    """
    assert not torch.is_grad_enabled()
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)
