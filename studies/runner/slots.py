"""Places for runs that are active at the same time."""

from __future__ import annotations

import os

import torch

from rekd_det.utils.errors import InputError

_CPU_JOBS = 2


def make_slots(jobs: int | None) -> list[dict[str, str]]:
    """Environment variables of each place: one GPU each, in turn, or one thread of the CPU.

    Args:
        jobs: how many; by default as many as there are GPUs, or two without one.

    Raises:
        InputError: ``jobs`` is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    # A process that waits for others by spinning slows down everything else on the same cores.
    common = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    gpus = visible_gpus()
    slots = []
    for index in range(jobs or len(gpus) or _CPU_JOBS):
        place = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}
        slots.append(common | place)
    return slots


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(i) for i in range(count)]
