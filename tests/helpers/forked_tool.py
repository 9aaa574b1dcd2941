"""Start the package's tools in processes of their own, without paying for their imports each time.

A server imports everything once; each process is forked from it, gets its command line, folder and environment, and
runs the tool's file as ``python tools/train.py ...`` would.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["rekd_det", "rekd_det.apis.preflight", "rekd_det.testing", "mmdet.datasets", "mmdet.evaluation", "forked_tool"]
)


def start(
    tool: str, arguments: Sequence[object], output: Path, cwd: Path, environment: dict | None = None
) -> BaseProcess:
    """Start ``tools/TOOL ARGUMENTS``; what it says is appended to ``output``.

    A LARGEST_FILE in ``environment`` limits the size of what the process can write to each file, in bytes.
    """
    words = [str(ROOT / "tools" / tool), *map(str, arguments)]
    process = _CONTEXT.Process(target=_run, args=(words, str(output), str(cwd), environment or {}))
    process.start()
    return process


def start_distributed(
    tool: str,
    arguments: Sequence[object],
    outputs: Sequence[Path],
    cwds: Sequence[Path],
    one_node: bool = True,
    environment: dict | None = None,
) -> list[BaseProcess]:
    """Start a tool as the launcher would, one process for each of ``outputs``, all on one node or each on its own."""
    port = free_port()
    processes = []
    for rank, (output, cwd) in enumerate(zip(outputs, cwds, strict=True)):
        launched = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank if one_node else 0),
            "WORLD_SIZE": str(len(outputs)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes.append(
            start(tool, [*arguments, "--launcher", "pytorch"], output, cwd, {**(environment or {}), **launched})
        )
    return processes


def wait(*processes: BaseProcess, seconds: float = 500) -> list[int | None]:
    """The exit codes; None for one that had to be killed after so many seconds."""
    codes = []
    for process in processes:
        process.join(seconds)
        codes.append(process.exitcode)
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(words: list[str], output: str, cwd: str, environment: dict) -> None:
    torch.set_num_threads(1)
    os.chdir(cwd)
    os.environ.update(environment)
    if "LARGEST_FILE" in environment:  # writing more fails as on a full disk
        size = int(environment["LARGEST_FILE"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with open(output, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
