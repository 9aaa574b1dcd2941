"""The text of a new pair's config and of its control."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from rekd_det.models.adapters import QueryAdapter, RCNNAdapter
from rekd_det.models.adapters.base import HEAD_ATTRIBUTES, HeadAdapter, build_adapter, find_adapter
from rekd_det.models.adapters.dense.dense import RetinaAdapter
from rekd_det.models.adapters.dense.gfl import GFLAdapter
from rekd_det.utils.config_types import default_scope, type_class, type_name
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import classifies_images, is_pair
from rekd_det.utils.pretrained import drop_pretrained

#: K of `configs/_base_/rekd_distill.py`
_TOP_K = 5


def check_heads(student: Config, teacher: Mapping) -> HeadAdapter:
    """Check what needs no weights: whether the teacher's head classifies the student's rows.

    Args:
        student: the student's config, as read.
        teacher: the teacher's model config.

    Returns:
        The adapter of the two heads.

    Raises:
        InputError: if the student is an image classifier, no adapter pairs the two heads, or their rows differ.
    """
    if classifies_images(student):
        raise InputError(
            "the student is an image classifier, and this tool writes pairs of detectors: copy a pair from "
            "configs/cls, and name your student and teacher in it"
        )
    heads = _head_class(student.get("model") or {}, "student"), _head_class(teacher, "teacher")
    try:
        find_adapter(*heads)
    except TypeError as error:
        raise InputError(str(error)) from error
    init_default_scope(default_scope(student))
    models = [copy.deepcopy(model) for model in (student.model, teacher)]
    drop_pretrained(models)
    detectors = [MODELS.build(model) for model in models]
    try:
        return build_adapter(*detectors)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error


def pair_text(
    student: Config, student_base: str, our_bases: str, teacher: str, checkpoint: str, adapter: HeadAdapter
) -> str:
    """A config that distils ``teacher`` into ``student``.

    Args:
        student: the student's config, as read.
        student_base: how the new config inherits it.
        our_bases: the folder of this package's base configs, as the new config names it.
        teacher: the teacher's ``cfg_path``.
        checkpoint: the teacher's checkpoint.
        adapter: of the two heads.
    """
    own_hooks = student.get("custom_hooks") is not None
    # The rows of a conditional sigmoid are those of objects alone: no background weighs on its tail.
    sigmoid = adapter.meaning.activation == "sigmoid" and not adapter.meaning.conditional
    base = ("rekd_distill" if own_hooks else "rekd") + ("_sigmoid" if sigmoid else "")
    lines = [
        f"_base_ = {json.dumps([student_base, f'{our_bases}/{base}.py'])}",
        *(["custom_hooks = [*_base_.custom_hooks, *_base_.rekd_hooks]"] if own_hooks else []),
        "model = dict(",
        "    _delete_=True,",
        "    **_base_.distill,",
        "    architecture=_base_.model,",
        f"    teacher=dict(cfg_path={json.dumps(teacher)}),",
        f"    teacher_ckpt={json.dumps(checkpoint)},",
        ")",
        *_own_top_k(adapter.num_logits),
        *_own_start(student),
    ]
    return "\n".join(lines) + "\n"


def control_text(student: Config, student_base: str) -> str:
    """A config that trains the student alone, on the same data with the same schedule."""
    lines = [
        "# Control: the student without distillation.",
        f"_base_ = {json.dumps(student_base)}",
        *_own_start(student),
    ]
    return "\n".join(lines) + "\n"


def _own_top_k(num_logits: int) -> list[str]:
    """A line for heads with so few logits that our K would leave no tail: half of them are the top-K set."""
    if num_logits > _TOP_K:
        return []
    return [f'model["distiller"]["loss"]["top_k"] = {max(1, num_logits // 2)}  # of {num_logits} logits']


def _own_start(student: Config) -> list[str]:
    """Lines for a student whose config a run has saved: its folder and its checkpoints are not the new training's."""
    lines = ["work_dir = None"] if student.get("work_dir") else []
    return lines + (["resume = False", "load_from = None"] if student.get("resume") else [])


def supported_settings(adapter: HeadAdapter) -> str:
    """One sentence that says which of the pair's settings a study of this project supports."""
    if isinstance(adapter, (RetinaAdapter, GFLAdapter)):
        name = "RetinaNet" if isinstance(adapter, RetinaAdapter) else "GFL"
        return f"for {name}, ReKD with these settings gained as much AP as KD on photographs, no more (docs/study.md)"
    if isinstance(adapter, QueryAdapter):
        return (
            "a small DINO gained as much AP with KD as with these settings on photographs (one seed, "
            "studies/results/groceries_dino); other query heads were not measured"
        )
    if isinstance(adapter, RCNNAdapter):
        return (
            "top_k and beta were chosen for Faster R-CNN on generated images; on photographs ReKD with them was above "
            "KD for a student that overfits, and level with KD for one that was trained with crops (docs/study.md)"
        )
    return "no study of this project has measured this family (docs/study.md): all settings are defaults"


def _head_class(model: Mapping, role: str) -> type[nn.Module]:
    if is_pair(model):
        raise InputError(f"the {role}'s config is a pair: give the config of its student alone, its control")
    head = next((model[name] for name in HEAD_ATTRIBUTES if model.get(name)), None)
    if head is None:
        raise InputError(f"the {role}'s config has no model with one of {', '.join(HEAD_ATTRIBUTES)}")
    kind = type_class(head.get("type"), MODELS)
    if kind is None:
        raise InputError(
            f"the {role}'s head {type_name(head.get('type'))} is not registered: name its module in custom_imports"
        )
    return kind
