"""Training data whose randomness depends only on the seed and the number of the batch.

mmengine seeds its worker processes once, when they start; what an augmentation draws then depends on all that its
worker drew before, and a resumed run can't know that. Here every sample seeds the generators itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, IterableDataset


class Draw(NamedTuple):
    """An index into a data set, and what seeds the generators for this use of it."""

    index: Any
    seed: tuple[int, ...]


class SeededDataset(Dataset):
    """A map-style data set that is indexed by :class:`Draw`. Its attributes are those of the data set inside.

    Args:
        dataset: any map-style data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.__dict__["dataset"] = dataset

    def __getitem__(self, draw: Draw) -> Any:
        """The sample at ``draw.index``, as it is after seeding with ``draw.seed``."""
        with _seeded(draw.seed):
            return self.dataset[draw.index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # The lookups of __getitems__ (DataLoader) and of pickle's hooks must not reach the data set inside.
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)  # hooks replace the pipeline this way


class SeededBatches:
    """A batch sampler that numbers its batches over the whole training, and can start in the middle.

    Args:
        batches: the batch sampler to number.
        seed: the run's seed.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        self.batches = batches
        self.seed = (seed, get_rank())
        #: number of the next batch since the start of the training
        self.number = 0
        self._started: Iterator | None = None

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self._take_started():
            number, self.number = self.number, self.number + 1
            yield [Draw(index, (*self.seed, number, place)) for place, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "batches" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.batches, name)  # `sampler`, for set_epoch

    def skip(self) -> bool:
        """Skip one batch without reading an image. False at the end of the round."""
        self._started = self._take_started()
        if next(self._started, None) is None:
            self._started = None
            return False
        self.number += 1
        return True

    def _take_started(self) -> Iterator:
        started, self._started = self._started, None
        return iter(self.batches) if started is None else started


class SeededLoader(DataLoader):
    """A DataLoader over :class:`SeededDataset` that can be advanced to any batch without reading images."""

    #: batches of the training to skip before the next one is read
    to_skip = 0
    #: whether a skipped batch is yielded as None (mmengine's IterBasedTrainLoop counts them) or not at all
    yields_skipped = False
    batch_sampler: SeededBatches  # type: ignore[assignment]

    @classmethod
    def around(cls, loader: DataLoader, seed: int) -> DataLoader:
        """The same loader with seeded samples; one that can't be seeded comes back as it is.

        Args:
            loader: as the Runner builds it. A loader of an iterable data set, or without batches, has no numbered
                samples and can't be seeded.
            seed: the run's seed.
        """
        # torch's IterableDataset inherits a __getitem__ that only raises.
        iterable = isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__getitem__")
        if loader.batch_sampler is None or iterable:
            return loader
        seeded = cls(
            SeededDataset(loader.dataset),
            batch_sampler=SeededBatches(loader.batch_sampler, seed),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            # Each iterator draws a number of it; from the global generator, the model's own draws would move.
            generator=torch.Generator(),
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )
        # None with a batch sampler, and torch forbids to assign it; MMPretrain's PreciseBNHook reads it.
        seeded.__dict__["batch_size"] = loader.batch_size
        return seeded

    def __iter__(self) -> Iterator:  # type: ignore[override]
        # A generator: mmengine's IterBasedTrainLoop asks for it before it knows where the training goes on.
        while self.to_skip:
            if not self.batch_sampler.skip():
                return
            self.to_skip -= 1
            if self.yields_skipped:
                yield None
        yield from super().__iter__()


def stateful_transforms(dataset: Any) -> list[str]:
    """Names of the transforms of a data set that mix in what earlier samples left in a cache.

    Args:
        dataset: any; the data sets inside of wrappers are looked at as well.
    """
    pipeline = getattr(dataset, "pipeline", None)
    transforms = getattr(pipeline, "transforms", pipeline)
    found = [type(t).__name__ for t in transforms or () if hasattr(t, "results_cache")]
    for inner in (getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())):
        if inner is not None:
            found += stateful_transforms(inner)
    return list(dict.fromkeys(found))


@contextmanager
def _seeded(seed: tuple[int, ...]) -> Iterator[None]:
    """Seed the CPU's generators, and restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence(seed).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed would seed the GPUs as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
