"""What the benchmarks share: clocks, memory, the machine they ran on, command line and table."""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rekd_det.utils.cpu import cpu_name


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it stands, with --device and --out."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="CSV file to write")
    return parser


def timed(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall and CPU seconds of a call. On a shared machine the CPU time of one thread is more reliable."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def copy_bandwidth(device: str) -> float:
    """Bytes per second, read and written ones together, of a copy far larger than the caches."""
    source = torch.rand(64 << 20, device=device)
    target = torch.rand_like(source)
    seconds = min(timed(lambda: target.copy_(source), device)[0] for _ in range(9))
    return 2 * source.numel() * source.element_size() / seconds


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Most memory that a call held at a time beyond what was there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def machine(device: str) -> dict:
    """What the numbers depend on."""
    return dict(
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        device=device_name(device),
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 1),
    )


def device_name(device: str) -> str:
    """The model of the GPU, or of the CPU."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else cpu_name()


def show(row: dict) -> None:
    """Print a row of a table, at once: the next may take minutes."""
    print("  ".join(f"{k}={v}" for k, v in row.items()), flush=True)


def write_table(table: list[dict], path: Path) -> None:
    """Write rows of equal keys as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
