"""Check that a config from a checkpoint names only registered classes, and that none of them runs what it is given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import mmcv.ops
import mmrazor.registry
from mmengine.registry import Registry

from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import resolve_model_config
from rekd_det.utils.registries import registries

_PACKAGES = ("mmengine", "mmcv", "mmdet", "mmpretrain", "torch")
#: modules of registered classes that evaluate an option as Python, or load a file or a network that it names
_RUN_OPTIONS = (
    *("mmcv.cnn.rfsearch", "mmdet.models.mot", "mmdet.models.task_modules.tracking", "mmdet.models.trackers"),
    *("mmdet.models.vis", "mmdet.models.detectors.kd_one_stage", "mmdet.models.detectors.lad", "mmrazor"),
    *("mmdet.models.language_models", "mmdet.models.detectors.glip", "mmdet.models.detectors.grounding_dino"),
    *("mmdet.models.dense_heads.atss_vlfusion_head", "mmdet.models.dense_heads.grounding_dino_head"),
    *("mmpretrain.models.heads.vqa_head", "mmpretrain.models.heads.margin_head", "mmpretrain.models.retrievers"),
    *("mmpretrain.models.multimodal", "mmpretrain.models.selfsup", "mmpretrain.models.peft"),
    *("mmpretrain.models.classifiers.hugging_face", "mmpretrain.models.classifiers.timm"),
    *("mmpretrain.models.backbones.timm_backbone", "mmpretrain.models.utils.huggingface"),
)
#: where the parts of a network are
_NETWORKS = (
    *("torch.nn.modules.", "mmcv.cnn.bricks.", "mmcv.ops.", "mmdet.models.", "mmpretrain.models."),
    *("mmengine.model.base_model.", "mmengine.model.weight_init", "mmengine.utils.dl_utils.parrots_wrapper"),  # SyncBN
)
#: keys that name the package in which names are looked up
_SCOPES = ("_scope_", "default_scope")
#: a config inside a package, `mmdet::retinanet/retinanet_r50_fpn_1x_coco.py`
_PACKAGED = re.compile(rf"({'|'.join(_PACKAGES)})::(\w[\w.-]*/)*\w[\w.-]*\.py")


def check_registered(config: Any, source: str, built: bool = False) -> None:
    """Check every class that a config names.

    A registry takes ``type='os.system'`` for what stands there, imports a package that is named as a scope, and
    ``cfg_path`` names a file that is run as Python. So a config is as good as code, unless all it names are classes
    that OpenMMLab's registries hold.

    Args:
        config: a config, or a part of one; a string is short for ``dict(cfg_path=...)``, as for a pair's detectors.
        source: where it comes from, for the message.
        built: whether the classes are built here: then only parts of networks are allowed.

    Raises:
        InputError: for any other name.
    """
    if isinstance(config, str):  # a model by the file of its config
        config = {"cfg_path": config}
    if isinstance(config, Mapping) and config.get("default_scope") == "mmpretrain":
        for registry in list(_registries()):
            if registry.scope == "mmpretrain":  # an optional package: let it register its classes, if it is there
                registry.import_from_location()
    for key, value in _named(config):
        if key == "cfg_path":
            allowed = _PACKAGED.fullmatch(str(value)) is not None
        elif key == "cfg_options":  # merged into another config, where dotted keys name what they like
            allowed = not value
        elif key in _SCOPES:
            allowed = value in (*_PACKAGES, "mmrazor", None)
        elif key == "type" or "." in value:
            allowed = _is_registered(value, built)
        else:  # `ema_type`, `bbox_type`: no path to an object
            allowed = True
        if allowed and key == "cfg_path" and built:
            check_registered(resolve_model_config(value), f"'{value}', which {source} names", built)
        if not allowed:
            raise InputError(
                f"the config inside {source} names {key}={value!r}, which is not a class of OpenMMLab's that is safe "
                "to take from a file; give a config that you trust with --config"
            )


def _named(config: Any) -> Iterator[tuple[str, Any]]:
    for node in config_nodes(config):
        for key, value in node.items():
            names = key in ("type", "constructor") or str(key).endswith("_type")
            if key in ("cfg_path", "cfg_options", *_SCOPES) or (names and isinstance(value, str)):
                yield key, value


def _is_registered(name: str, built: bool) -> bool:
    scope, _, rest = name.rpartition(".")
    if name in mmcv.ops.__all__:  # the kinds of NMS
        return True
    if scope == "mmrazor":  # where this package registers; its backbones run nothing
        return _module(mmrazor.registry.MODELS.module_dict.get(rest)).startswith("rekd_det.models.backbones.")
    if scope in ("", *_PACKAGES):
        found = [cls for registry in _registries() for cls in (registry.module_dict.get(rest),) if cls is not None]
    else:
        return False
    if built:
        found = [cls for cls in found if _module(cls).startswith(_NETWORKS)]
    return bool(found) and not any(_module(cls).startswith(_RUN_OPTIONS) for cls in found)


def _module(cls: Any) -> str:
    return getattr(cls, "__module__", "")


def _registries() -> Iterator[Registry]:
    return (registry for registry in registries() if registry.scope in _PACKAGES)
