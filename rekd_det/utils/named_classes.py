"""Configs in mmengine's new style, whose types are classes, in the registries' names.

mmengine saves a class as the path of its module and can't always find it again there: a function of the same name hides
``mmdet.models.losses.smooth_l1_loss``. And OpenMMLab compares the types of layers with names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mmcv.ops
from mmengine.config import Config
from mmengine.registry import Registry

from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.custom_imports import import_rekd_det
from rekd_det.utils.registries import registries

#: whose classes are named. Those of other packages may be registered only after an import that the text does not name.
_PACKAGES = ("mmengine", "mmcv", "mmdet", "mmpretrain", "torch", "rekd_det")


def name_classes(cfg: Config) -> None:
    """Replace the classes in a config by the names that its default scope knows them by, in place.

    A class that no registry has stays. The new style leaves the default scope open: it becomes that of the model.
    """
    found = [(node, key) for node in (cfg, *config_nodes(list(cfg.values()))) for key in node if _is_class(node, key)]
    if not found:
        return
    known = list(registries())
    if not cfg.get("default_scope"):
        cfg.default_scope = _scope_of(cfg.get("model"), known)
    for node, key in found:
        name = _name_of(node[key], cfg.default_scope, known)
        if name is not None:
            if _package(node[key]) == "rekd_det":
                import_rekd_det(cfg)
            node[key] = name


def _is_class(node: Any, key: Any) -> bool:
    kind = node[key]
    names = key in ("type", "constructor") or str(key).endswith("_type")
    return names and callable(kind) and hasattr(kind, "__name__") and _package(kind) in _PACKAGES


def _package(kind: Any) -> str:
    return kind.__module__.partition(".")[0]


def _scope_of(model: Any, known: Sequence[Registry]) -> str:
    """That of a model, of a pair's student; mmdet's if it does not say."""
    for key in ("architecture", "type"):
        model = model.get(key, model) if isinstance(model, Mapping) else model
    return next((r.scope for r in known if model in r.module_dict.values()), "mmdet")


def _name_of(kind: Any, scope: str, known: Sequence[Registry]) -> str | None:
    own: str = kind.__name__
    for registry in known:
        names = [name for name, registered in registry.module_dict.items() if registered is kind]
        if names:
            name = own if own in names else names[0]
            above = registry.parent or registry
            seen = above.children.get(scope, above).get(name)
            return name if seen is kind else f"{registry.scope}.{name}"
    return own if getattr(mmcv.ops, own, None) is kind else None  # RoIAlign and the kinds of NMS
