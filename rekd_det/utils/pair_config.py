"""Read a distillation pair from a config: which model is the student, which the teacher.

A *pair* is a config whose ``model`` has both an ``architecture`` (the student) and a ``teacher``.
Everything here works on configs alone: no model is built, no checkpoint is read.
"""

import copy
import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS

from rekd_det.utils.config_options import merge_into
from rekd_det.utils.config_types import type_class
from rekd_det.utils.errors import InputError
from rekd_det.utils.read_config import package_config, read_file

_SPEC_KEYS = {"cfg_path", "cfg_options", "pretrained"}


def classifies_images(cfg: Config) -> bool:
    """Whether a config is of MMPretrain's image classifiers, and not of a detector."""
    return cfg.get("default_scope") == "mmpretrain"


def is_pair(model: object) -> bool:
    """Whether a ``model`` config describes a student (``architecture``) and its ``teacher``."""
    return isinstance(model, Mapping) and "architecture" in model and "teacher" in model


def require_pair(cfg: Config) -> None:
    """Raise InputError if a config describes no pair."""
    if not is_pair(cfg.get("model")):
        raise InputError("this config is not a pair: `model` needs the keys `architecture` and `teacher`")


def trained_model(model: Any) -> tuple[str, Any]:
    """The config key of what is trained, the student of a pair or the model itself, and its full config.

    Args:
        model: the ``model`` of a config; None where there is none.

    Raises:
        InputError: if a pair's ``architecture`` names no config.
    """
    if is_pair(model):
        return "model.architecture", resolve_model_config(model["architecture"], "model.architecture")
    return "model", model


def resolve_model_config(spec: Mapping | str, name: str = "model") -> ConfigDict:
    """Turn any accepted way to name a detector into its full model config.

    Args:
        spec: One of

            * a model config with ``type``, returned as a copy;
            * ``dict(cfg_path=..., cfg_options=...)``, where ``cfg_path`` is a config of an
              installed package (``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'``) or the path
              of a config file, and ``cfg_options`` overrides keys of that config as
              ``--cfg-options`` does (``{'model.backbone.depth': 18}``);
            * a string: short for ``dict(cfg_path=string)``.

            A ``cfg_path`` of a pair means the student of that pair.
        name: The config key that ``spec`` comes from, for error messages.

    Returns:
        The model config. It always has ``type``, and never shares memory with ``spec``.

    Raises:
        InputError: If ``spec`` has unknown keys, names no config, its options do not fit that, or it has no model.
    """
    if isinstance(spec, str):
        spec = dict(cfg_path=spec)
    if not isinstance(spec, Mapping):
        raise InputError(f"{name} must be a model config or dict(cfg_path=...), but is {type(spec).__name__}")
    if "type" in spec:
        return copy.deepcopy(spec if isinstance(spec, ConfigDict) else ConfigDict(spec))
    if "cfg_path" not in spec:
        raise InputError(f"{name} needs either `type` or `cfg_path`, but has only the keys {sorted(spec)}")
    _check_spec_keys(spec, name)

    path = spec["cfg_path"]
    cfg = _read_config(path, name)
    if spec.get("cfg_options"):
        _check_options(cfg, spec["cfg_options"], name)
        merge_into(cfg, spec["cfg_options"], f"{name}.cfg_options", path)
    model = cfg.get("model")
    if not isinstance(model, Mapping):
        raise InputError(f"{name}.cfg_path: the config '{path}' defines no `model`")
    if is_pair(model):
        return student_of(model)
    model = resolve_model_config(model, f"model of '{path}'")
    # Some configs have the data preprocessor next to the model; the Runner would merge it.
    if cfg.get("data_preprocessor") is not None:
        model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    package = path.partition("::")[0] if "::" in path else cfg.get("default_scope")
    # So that names resolve in their own package when another one's scope is the default.
    if package and package != "mmdet":
        model.setdefault("_scope_", package)
    return model


def model_config(cfg: Config) -> ConfigDict:
    """A copy of a config's ``model`` with the data preprocessor next to it, merged as by the Runner."""
    model = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    return model


def student_config(cfg: Config) -> Config:
    """The config of the student alone: what is left of a pair once it is distilled.

    Args:
        cfg: Any config. One that describes no pair comes back as an equal copy.

    Returns:
        A new config whose ``model`` is the student, without the hooks that serve distillation.
    """
    cfg = copy.deepcopy(cfg)
    if is_pair(cfg.get("model")):
        cfg.model = student_of(cfg.model)
        _drop_distillation_hooks(cfg)
    return cfg


def teacher_config(cfg: Config) -> Config:
    """The config of the teacher alone, with the data and the evaluation of the pair.

    Args:
        cfg: The config of a pair.

    Returns:
        A new config whose ``model`` is the teacher and whose ``load_from`` is its checkpoint
        (``None`` where the pair gives none).

    Raises:
        InputError: If ``cfg`` describes no pair.
    """
    require_pair(cfg)
    cfg = copy.deepcopy(cfg)
    checkpoint = cfg.model.get("teacher_ckpt")
    teacher = with_preprocessor(cfg.model.teacher, cfg.model.get("data_preprocessor"))
    cfg.model = resolve_model_config(teacher, "model.teacher")
    cfg.load_from = checkpoint
    _drop_distillation_hooks(cfg)
    return cfg


def with_preprocessor(teacher: Any, outer: Any) -> Any:
    """Give a preprocessor without a type, as MMPretrain's configs have it beside their model, to the teacher as well.

    A teacher that is written out beside it has none of its own.
    """
    if isinstance(outer, Mapping) and "type" not in outer and isinstance(teacher, Mapping) and "type" in teacher:
        return {"data_preprocessor": copy.deepcopy(outer), **teacher}
    return teacher


def student_of(model: Mapping) -> ConfigDict:
    """A copy of the student's model config in that of a pair, with the pair's data preprocessor if it has one.

    Raises:
        InputError: if ``architecture`` names no config, or the two preprocessors differ.
    """
    student = resolve_model_config(model["architecture"], "model.architecture")
    outer = model.get("data_preprocessor")
    if isinstance(outer, Mapping) and "type" not in outer:
        check_preprocessors(outer, student)
        student.setdefault("data_preprocessor", copy.deepcopy(outer))
    elif outer is not None:
        # The algorithm's own preprocessor is the one that the student was trained with.
        student["data_preprocessor"] = copy.deepcopy(outer)
    return student


def check_preprocessors(outer: object, student: object) -> None:
    """Raise InputError if the data preprocessor beside a pair's student says something else than the student's own.

    Otherwise one of the two would be ignored silently, or a test would take another one than the training.

    Args:
        outer: of the pair, where it has no ``type``, or of the whole config; None: there is none.
        student: the student's model config.
    """
    own = student.get("data_preprocessor") if isinstance(student, Mapping) else None
    if not isinstance(outer, Mapping) or not isinstance(own, Mapping):
        return
    keys = outer.keys() | own.keys() if "type" in outer else outer.keys()
    if different := sorted(key for key in keys if _plain(outer.get(key)) != _plain(own.get(key))):
        raise InputError(
            f"model.architecture.data_preprocessor and the one beside the student (model.data_preprocessor or "
            f"data_preprocessor) differ in {', '.join(different)}: leave the second one out, and set the keys of "
            "model.architecture.data_preprocessor"
        )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _check_spec_keys(spec: Mapping, name: str) -> None:
    unknown = sorted(set(spec) - _SPEC_KEYS)
    if unknown:
        raise InputError(
            f"{name} has cfg_path='{spec['cfg_path']}' and the unknown keys {unknown}; "
            "only cfg_options is read with cfg_path. To change the model, use e.g. "
            f"{name}.cfg_options.model.backbone.depth=50"
        )
    if spec.get("pretrained"):
        raise InputError(
            f"{name}.pretrained=True is not supported: give the checkpoint itself "
            "(model.teacher_ckpt, or load_from for the student)"
        )


def _read_config(path: object, name: str) -> Config:
    if not isinstance(path, str) or not path:
        raise InputError(f"{name}.cfg_path must be a config's path or name, but is {path!r}")
    if "::" in path:
        return package_config(path, f"{name}.cfg_path")
    if not osp.isfile(path):
        raise InputError(
            f"{name}.cfg_path '{path}': no such file (relative paths start at the folder where "
            "the command runs; configs of a package are written 'mmdet::folder/file.py')"
        )
    try:
        return read_file(path)
    except Exception as error:  # a config is a program and may raise any exception
        raise InputError(f"{name}.cfg_path '{path}' can't be read: {type(error).__name__}: {error}") from error


def _check_options(cfg: Config, options: Mapping, name: str) -> None:
    for key in options:
        top = key.partition(".")[0]
        if top not in cfg:
            raise InputError(
                f"{name}.cfg_options key '{key}' names nothing in that config; keys start at its "
                f"top level, e.g. 'model.{key}'"
            )


def _drop_distillation_hooks(cfg: Config) -> None:
    """Remove the custom hooks that expect a pair: those of this package and of MMRazor."""
    hooks = cfg.get("custom_hooks")
    if hooks:
        cfg.custom_hooks = [hook for hook in hooks if not _is_distillation_hook(hook)]


def _is_distillation_hook(hook: object) -> bool:
    kind = type_class(hook.get("type") if isinstance(hook, Mapping) else type(hook), HOOKS)
    return getattr(kind, "__module__", "").partition(".")[0] in ("rekd_det", "mmrazor")
