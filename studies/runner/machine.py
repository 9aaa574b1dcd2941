"""Hardware and versions that a result was computed with."""

from __future__ import annotations

import importlib
import os
import platform

import torch

from rekd_det.utils.cpu import cpu_name
from rekd_det.version import __version__

_PACKAGES = ("torch", "mmengine", "mmcv", "mmdet", "mmrazor", "numpy")


def hardware() -> dict[str, object]:
    """The processor and its cores, and the GPUs that are visible."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def versions() -> dict[str, str]:
    """Of this package, of Python and of what decides a training's result."""
    found = {"rekd_det": __version__, "python": platform.python_version()}
    # The modules know their versions, whichever package brought them: the maintained forks have other names.
    return found | {name: importlib.import_module(name).__version__ for name in _PACKAGES}
