"""How one training of a study is started: as one process, on several GPUs of this machine, or by Slurm."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rekd_det.utils.errors import InputError

LAUNCHERS = ("none", "pytorch", "slurm")


@dataclass(frozen=True)
class Launcher:
    """What starts ``tools/train.py`` and ``tools/test.py``.

    Attributes:
        name: 'none': one process in a place of the study's; 'pytorch': ``tools/dist_*.sh``; 'slurm':
            ``tools/slurm_*.sh``, which wait until the job has ended.
        processes: of one training, one for each GPU.
        partition: of Slurm.
    """

    name: str = "none"
    processes: int = 1
    partition: str = ""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise InputError(f"--gpus must be at least 1, got {self.processes}")
        if self.name == "none" and self.processes > 1:
            raise InputError(
                "--gpus needs --launcher pytorch or slurm; without one, --jobs is the number of runs at once"
            )
        if self.name == "slurm" and not self.partition:
            raise InputError("--launcher slurm needs --partition")

    def on_gpus(self) -> bool:
        """Whether a training that several processes share has GPUs."""
        return self.name == "slurm" or (self.name == "pytorch" and torch.cuda.device_count() > 0)

    def command(
        self, tools: Path, tool: str, config: Path, files: Sequence[str], arguments: Sequence[str]
    ) -> tuple[list[str], dict[str, str]]:
        """A command and its environment variables.

        Args:
            tools: the folder of the tools.
            tool: 'train' or 'test'.
            config: of the run.
            files: what the tool takes after the config: a checkpoint.
            arguments: options; the first two are ``--work-dir`` and the folder.
        """
        if self.name == "none":
            return [sys.executable, str(tools / f"{tool}.py"), str(config), *files, *arguments], {}
        if self.name == "pytorch":
            script = [str(tools / f"dist_{tool}.sh"), str(config), *files, str(self.processes)]
            return ["bash", *script, *arguments], {"PYTHON": sys.executable, "PORT": str(_free_port())}
        of_place = [arguments[1], *arguments[2:]] if tool == "train" else list(arguments)
        script = [str(tools / f"slurm_{tool}.sh"), self.partition, config.parent.name, str(config), *files, *of_place]
        per_node = os.environ.get("GPUS_PER_NODE") or str(min(self.processes, 8))
        gpus = {"GPUS": str(self.processes), "GPUS_PER_NODE": per_node}
        return ["bash", *script], {"PYTHON": sys.executable, **gpus}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]
