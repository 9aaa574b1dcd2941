"""The states of a process's random generators, in types that a checkpoint may hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def generator_states() -> dict[str, Any]:
    """The states of Python's, NumPy's, torch's and, where a GPU is in use, the current GPU's generator.

    Returns:
        Tuples, numbers and CPU tensors only: ``torch.load(weights_only=True)`` reads them.
    """
    name, keys, *rest = np.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.view(np.int32).copy()), *rest),  # type: ignore[attr-defined, union-attr]
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generator_states(states: dict[str, Any]) -> None:
    """Undo everything that was drawn since :func:`generator_states`.

    Args:
        states: what it returned; its tensors may have moved to a GPU on loading.
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().view(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
