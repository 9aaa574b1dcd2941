"""Which OpenMMLab packages are installed, and whether they fit together; checked before an import fails inside them."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

import torch

#: packages that bring a module, the usual one first, then the maintained fork
_PACKAGES = dict(mmcv=("mmcv", "onedl-mmcv"), mmdet=("mmdet", "onedl-mmdetection"))


def check() -> None:
    """Refuse incompatible versions.

    Raises:
        ImportError: torch is older than 2.6, mmdet does not accept the installed mmcv, or mmcv's operators do not load
            with the installed torch; with what to install instead.
    """
    if _numbers(torch.__version__) < (2, 6):
        raise ImportError(
            f"torch {torch.__version__} reads checkpoints without weights_only, so that they could run code: install "
            "torch 2.6 or later. docs/install.md says how"
        )
    mmcv, mmdet = (_found(module) for module in ("mmcv", "mmdet"))
    if mmdet[0] == "mmdet" and _numbers(mmdet[1]) < (3, 4) and _numbers(mmcv[1]) >= (2, 2):
        raise ImportError(
            f"{_name(mmdet)} accepts mmcv < 2.2, and {_name(mmcv)} is installed: install mmcv 2.1.0 (compiled for your "
            "torch), or both packages' maintained forks, onedl-mmdetection and onedl-mmcv. docs/install.md says how"
        )
    try:
        importlib.import_module("mmcv.ops")
    except ImportError as error:
        raise ImportError(
            f"{_name(mmcv)} does not load with torch {torch.__version__} ({error}). Its operators are built for one "
            "version of torch. Either `pip cache remove mmcv`, `pip uninstall mmcv` and install it again, or "
            "put back the torch that it was compiled for. docs/install.md says how"
        ) from error


def _found(module: str) -> tuple[str, str]:
    """Package and version that bring a module; a version of 0 where none is known, e.g. of a checkout on the path."""
    for package in _PACKAGES[module]:
        try:
            return package, version(package)
        except PackageNotFoundError:
            continue
    return module, "0"


def _name(found: tuple[str, str]) -> str:
    return " ".join(found)


def _numbers(text: str) -> tuple[int, ...]:
    """``(2, 2)`` of ``'2.2.0rc1'``."""
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
