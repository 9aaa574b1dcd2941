"""MMDetection's own configs: which contain a detector, and which represent the others of their kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from rekd_det.apis.zoo_models import ZOO
from rekd_det.models.adapters.base import HEAD_ATTRIBUTES
from rekd_det.utils.config_types import type_name

#: models without a detector: they embed boxes, or only propose them
_NO_DETECTOR = ("BaseReID", "RPN")


@dataclass(frozen=True)
class ZooConfig:
    """A config of the zoo with a detector in it.

    Args:
        path: relative to the zoo, ``'retinanet/retinanet_r50_fpn_1x_coco.py'``.
        model: the detector's config; None where the file can't be read.
        error: why it can't be read; '' where it can.
    """

    path: str
    model: Mapping | None
    error: str = ""

    @property
    def family(self) -> str:
        """The folder, which MMDetection names after the method."""
        return self.path.partition("/")[0]

    @property
    def kind(self) -> tuple[str, ...]:
        """Classes that decide how it classifies: detector, head, box head and classification loss."""
        if self.model is None:
            return ("?",)
        head: Mapping = next((self.model[n] for n in HEAD_ATTRIBUTES if self.model.get(n)), {})
        box_head = head.get("bbox_head") or {}
        inner = box_head[0] if isinstance(box_head, list) else box_head or head
        stages = ("as_two_stage", "with_box_refine")
        return (
            *(type_name(part.get("type")) for part in (self.model, head, inner, inner.get("loss_cls") or {})),
            *(name for name in stages if self.model.get(name)),
        )


def zoo_configs(only: Sequence[str]) -> list[ZooConfig]:
    """All configs of the zoo with a detector in it, trackers' and semi-supervised ones' included.

    Args:
        only: folders of the zoo; all if there are none.

    Raises:
        ValueError: if there is no such folder.
    """
    families = sorted(p.name for p in ZOO.iterdir() if p.is_dir() and not p.name.startswith("_"))
    unknown = [f for f in only if f not in families]
    if unknown:
        raise ValueError(f"MMDetection's zoo has no family {unknown[0]!r}; it has {', '.join(families)}")
    found = []
    for name in only or families:
        for file in sorted((ZOO / name).glob("*.py")):
            config = _read(file)
            if config is not None:
                found.append(config)
    return found


def one_of_each(configs: Iterable[ZooConfig]) -> list[ZooConfig]:
    """Per family and kind, the config with the shortest name: usually the plain one."""
    best: dict[tuple, ZooConfig] = {}
    for config in configs:
        key = (config.family, *config.kind)
        if key not in best or len(config.path) < len(best[key].path):
            best[key] = config
    return sorted(best.values(), key=lambda c: c.path)


def _read(file: Path) -> ZooConfig | None:
    path = str(file.relative_to(ZOO))
    try:
        model: Any = Config.fromfile(file).get("model")
    except Exception as error:  # anything can be missing that a config imports
        reason = (str(error).strip().splitlines() or [""])[0].replace(f"{ZOO}/", "")  # the same on every machine
        return ZooConfig(path, None, f"{type(error).__name__}: {reason.partition(', the current sys.path')[0]}")
    if isinstance(model, Mapping) and isinstance(model.get("detector"), Mapping):
        # What wraps a detector preprocesses for it, frames or several views at once.
        model = dict(data_preprocessor=dict(type="DetDataPreprocessor", pad_size_divisor=32)) | dict(model["detector"])
    # Some files hold a schedule, test-time augmentation or a model that is not a detector.
    if not isinstance(model, Mapping) or "type" not in model or type_name(model["type"]) in _NO_DETECTOR:
        return None
    return ZooConfig(path, model)
