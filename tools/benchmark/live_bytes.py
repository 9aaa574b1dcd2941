"""Counts the bytes of live tensors, which on a CPU no allocator reports."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Within the block, follows every tensor that an operation returns until its memory is freed.

    Counted are storages, so views cost nothing. Not seen is what an operator allocates and frees inside itself (the
    scratch memory of a convolution, say). ``peak`` is the most bytes that were alive at a time, beyond those that were
    there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def follow_not(self, tensors: list[torch.Tensor]) -> None:
        """Leave out tensors that exist already, such as weights; operations in place return them."""
        self._seen.update(t.untyped_storage()._cdata for t in tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or not size:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size
