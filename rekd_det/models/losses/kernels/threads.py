"""Blocks of rows on several CPU threads.

A block is too small for torch to split it well. On a machine that is busy with other work, threads that share a block
also wait for each other all the time. So each thread computes whole blocks, without torch's own threads inside.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")

#: for fewer blocks, starting a thread costs more than it saves
_WORTH_THREADS = 8


def on_threads(run: Callable[[list[slice]], list[Result]], blocks: list[slice]) -> list[Result]:
    """Run all blocks without autograd, on as many threads as torch uses.

    Args:
        run: gives the results of the blocks it receives; every thread calls it once, with its share of the blocks.
        blocks: the rows of each block.

    Returns:
        The results in the order of the blocks.
    """
    threads = torch.get_num_threads()
    share = -(-len(blocks) // threads) if len(blocks) >= _WORTH_THREADS else len(blocks)
    if threads == 1:
        return run(blocks)
    try:
        torch.set_num_threads(1)
        if share == len(blocks):
            return run(blocks)
        own, *others = (blocks[i : i + share] for i in range(0, len(blocks), share))
        # For this call only: a pool that stays would be dead in a forked process.
        with ThreadPoolExecutor(len(others), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending = pool.map(torch.no_grad()(run), others)  # a new thread has autograd on
            return run(own) + [result for found in pending for result in found]
    finally:
        torch.set_num_threads(threads)
