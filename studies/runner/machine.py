"""Hardware and versions that a result was computed with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from rekd_det.version import __version__

_PACKAGES = ("torch", "mmengine", "mmcv", "mmdet", "mmrazor", "numpy")


def hardware() -> dict[str, object]:
    """The processor and its cores, and the GPUs that are visible."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def versions() -> dict[str, str]:
    """Of this package, of Python and of what decides a training's result."""
    found = {"rekd_det": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # mmcv is also distributed as mmcv-lite and the like
            found[name] = "unknown"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
