"""Hardware and versions that a result was computed with."""

from __future__ import annotations

import importlib
import os
import platform
import re
from pathlib import Path

import torch

from rekd_det.utils.cpu import cpu_name
from rekd_det.version import __version__

#: stands for the processor of a machine that is not this one
ELSEWHERE = "processor not recorded (another machine)"
_PACKAGES = ("torch", "mmengine", "mmcv", "mmdet", "mmrazor", "numpy")


def hardware() -> dict[str, object]:
    """The processor and its cores, and the GPUs that are visible."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def hardware_of_job(output: Path) -> dict[str, object]:
    """That of a training on another machine: the GPUs of its first process, as mmengine logs them at the last start.

    Args:
        output: what the training has written, each start behind the one before.
    """
    gpus: dict[str, str] = {}
    text = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    for numbers, name in re.findall(r"^ +GPU ([\d,]+): (.+)$", text.rpartition("System environment:")[2], re.M):
        gpus |= dict.fromkeys(numbers.split(","), name)
    return {"cpu": ELSEWHERE, "cores": None, "gpus": list(gpus.values())}


def versions() -> dict[str, str]:
    """Of this package, of Python and of what decides a training's result."""
    found = {"rekd_det": __version__, "python": platform.python_version()}
    # The modules know their versions, whichever package brought them: the maintained forks have other names.
    return found | {name: importlib.import_module(name).__version__ for name in _PACKAGES}
