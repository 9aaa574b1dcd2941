"""Turn an error raised while OpenMMLab's registries build a config into one message for its author."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any

from mmengine.registry import build_from_cfg
from mmengine.runner import Runner

from rekd_det.utils.errors import InputError, did_you_mean, one_line, raised_in
from rekd_det.utils.options import options_of

#: how mmengine, mmdet and this package refuse a config, and what a value of another type or length leads to
_KINDS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(AssertionError, OSError, ImportError, RuntimeError),
)
#: options that name what an object reads
_SOURCES = ("ann_file", "data_root", "checkpoint", "img_folder", "cfg_path")
#: what the Runner builds with more than a registry
_RUNNER_BUILDERS = {getattr(Runner, n).__code__ for n in dir(Runner) if n.startswith("build_")}
#: packages whose code is not the user's: this package, OpenMMLab, and what they call
_WELL_KNOWN = {
    *("rekd_det", "mmengine", "mmcv", "mmdet", "mmrazor", "mmpretrain", "torch", "torchvision", "numpy", "cv2", "PIL"),
    *(
        "addict",
        "faster_coco_eval",
        "pycocotools",
        "lvis",
        "scipy",
        "skimage",
        "sklearn",
        "timm",
        "transformers",
        "yaml",
    ),
    *sys.stdlib_module_names,
}
#: keys of a model alone
_OF_A_DETECTOR = {"backbone", "neck", "head", "bbox_head", "mask_head", "rpn_head", "roi_head", "encoder", "decoder"}
_UNKNOWN_OPTION = re.compile(r"got an unexpected keyword argument '(\w+)'")


class BuildError(InputError):
    """A config from which something can't be built."""


def explain_build_error(error: BaseException, always: bool = False) -> BuildError | None:
    """The message for an error that was raised inside a registry's ``build``.

    Args:
        error: as caught.
        always: explain it even if no registry was at work, e.g. while the Runner itself is made.

    Returns:
        The error to show, or None if the config is not the cause.
    """
    if not isinstance(error, _KINDS):
        return None
    frames = _frames(error)
    building = [f for f in frames if f.f_code is build_from_cfg.__code__]
    parts = [f for f in frames if f.f_code in _RUNNER_BUILDERS]
    if not building and not parts and not always:
        return None
    message = one_line(error) or type(error).__name__
    if message == "need at least one array to concatenate":  # mmengine's BaseDataset, of an empty list
        message = "no image is left in the data set; look at its filter_cfg, indices and metainfo.classes"
    where = raised_in(error)
    if not building and parts:
        key = parts[-1].f_code.co_name.removeprefix("build_")
        return BuildError(f"{key}{_types(parts[-1].f_locals.get(key))} can't be built: {message} (raised in {where})")
    if not building:
        return BuildError(f"the Runner can't be built from the config: {message} (raised in {where})")
    values = building[-1].f_locals
    owner, options = values.get("obj_cls"), values.get("args")
    name = getattr(owner, "__name__", None) or str((values.get("cfg") or {}).get("type"))
    given = ", ".join(f"{k}={v!r}" for k, v in (options or {}).items() if k in _SOURCES and isinstance(v, str))
    unknown = _UNKNOWN_OPTION.search(message)
    if unknown and owner is not None:
        option = unknown[1]
        # Of an option that the class itself passes on to something else, its own names say nothing.
        known = options_of(owner) if option in (options or {}) and inspect.isclass(owner) else ()
        message = f"it has no option '{option}'{did_you_mean(option, known)}"
        if name == "ReKDDistill" and option in _OF_A_DETECTOR:
            message += "; write _delete_=True in `model`, which has inherited the keys of a model alone"
    return BuildError(f"{name}({given}) can't be built: {message} (raised in {where})")


def went_through_own_code(error: BaseException) -> bool:
    """Whether an error was raised inside the user's own code: a backbone, a loss, a hook."""
    packages = [str(f.f_globals.get("__name__")).partition(".")[0] for f in _frames(error)]
    called = packages[packages.index("mmengine") :] if "mmengine" in packages else []
    return any(name not in _WELL_KNOWN for name in called)


def _types(config: Any) -> str:
    if not isinstance(config, Mapping):
        return ""
    inner = {f"{k}.type": v["type"] for k, v in config.items() if isinstance(v, Mapping) and "type" in v}
    return f"({', '.join(f'{k}={v!r}' for k, v in {'type': config.get('type'), **inner}.items() if v is not None)})"


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
