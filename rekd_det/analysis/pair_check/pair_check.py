"""Check a pair before its training, and describe what is wrong with it."""

from __future__ import annotations

import contextlib
import io
import logging

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from rekd_det.analysis.pair_check.cost_report import report_cost
from rekd_det.analysis.pair_check.findings import Findings
from rekd_det.analysis.pair_check.loss_report import report_losses
from rekd_det.analysis.pair_check.pair_measure import synthetic_batch
from rekd_det.analysis.pair_check.training_data import data_classes, train_scale
from rekd_det.apis.build_errors import explain_build_error
from rekd_det.apis.export import count_parameters
from rekd_det.engine.hooks.pair_check_hook import check_categories
from rekd_det.models.algorithms.rekd_distill import ReKDDistill
from rekd_det.utils.checkpoint import load_checkpoint_file
from rekd_det.utils.checkpoint_content import STUDENT_PREFIX, weights_of
from rekd_det.utils.config_types import default_scope, type_name
from rekd_det.utils.errors import InputError, one_line, raised_in
from rekd_det.utils.pair_config import classifies_images, model_config, require_pair, resolve_model_config
from rekd_det.utils.pretrained import drop_pretrained


def check_pair(cfg: Config, size: tuple[int, int] | None) -> Findings:
    """Build a pair, load its weights and measure it on generated images. No data set is needed.

    Args:
        cfg: the config of a pair.
        size: (height, width) of the generated images; None: that of the training for a classifier, for a detector
            (192, 256) or, if its losses can't be computed there, that of the training.

    Returns:
        What was found. A pair that can't be built, or whose losses can't be computed, has that as its last mistake.

    Raises:
        InputError: if the config describes no pair.
    """
    require_pair(cfg)
    found = Findings()
    init_default_scope(default_scope(cfg))
    found.section("Pair")
    try:
        model = _build(cfg, found)
    except (ValueError, TypeError, KeyError) as error:  # how this package, mmengine's registries and mmdet refuse
        found.mistakes.append(one_line(explain_build_error(error) or error))
        return found
    _check_categories(cfg, model, found)
    _describe_input(model, found)
    torch.manual_seed(0)
    batch = _report_losses_at(_sizes(cfg) if size is None else [size], cfg, model, found)
    if batch is not None:
        report_cost(cfg, model, batch, found)
        _check_schedule(cfg, found)
    return found


def _build(cfg: Config, found: Findings) -> ReKDDistill:
    config = model_config(cfg)
    config.architecture = resolve_model_config(config.architecture, "model.architecture")
    skipped = drop_pretrained(config.architecture)
    MMLogger.get_current_instance().setLevel(logging.ERROR)  # mmengine's paragraph for every parameter
    model = MODELS.build(config)
    if not isinstance(model, ReKDDistill):
        raise InputError(f"model.type: {type(model).__name__} is not a ReKDDistill")
    with contextlib.redirect_stdout(io.StringIO()):
        model.init_weights()
    found.row("student", f"{type(model.student).__name__}, {_millions(model.student)} M parameters")
    found.row("teacher", f"{type(model.teacher).__name__}, {_millions(model.teacher)} M parameters")
    found.row("teacher weights", f"{cfg.model.get('teacher_ckpt')}: all keys match")
    if cfg.get("load_from"):
        found.row("student weights", _load_student(model, cfg.load_from))
    elif skipped:
        found.row("student weights", f"random here; the training starts from {', '.join(sorted(skipped))}")
    else:
        found.row("student weights", "random, as at the start of the training")
    adapter = model.distiller.adapter
    if adapter is not None:
        found.row("pairing", adapter.describe())
    found.row("loss", model.distiller.loss)
    if model.distiller.box_loss is not None:
        found.row("box loss", model.distiller.box_loss)
    ratio = count_parameters(model.teacher) / count_parameters(model.student)
    if ratio < 1:
        found.notes.append(
            f"the teacher has {ratio:.2f} times the student's parameters: were model.teacher and model.architecture "
            "swapped?"
        )
    return model.train()


def _load_student(model: ReKDDistill, path: str) -> str:
    checkpoint = load_checkpoint_file(path)
    own = model.state_dict().keys()
    weights = weights_of(checkpoint)
    matched = sum(k in own or STUDENT_PREFIX + k in own for k in weights)
    with contextlib.redirect_stdout(io.StringIO()):
        _load_checkpoint_to_model(model, checkpoint, strict=False)
    return f"{path}: {matched} of {len(weights)} keys match the student's {len(own)}"


def _check_categories(cfg: Config, model: ReKDDistill, found: Findings) -> None:
    data, teacher, heads = data_classes(cfg), model.teacher_classes, _num_classes(model)
    found.row(
        "categories",
        f"data {_some(data, 'config')}; teacher {_some(teacher, 'checkpoint')}; student's head {heads or '?'}",
    )
    if data is not None and heads is not None and len(data) != heads:
        found.mistakes.append(
            f"the data set has {len(data)} categories and the student's head num_classes={heads}: set num_classes of "
            "model.architecture's heads, or metainfo.classes of the data set"
        )
    if model.distiller.adapter is None:
        return  # feature maps alone are distilled, which have no categories
    if teacher is None:
        found.notes.append("the teacher's checkpoint does not name its categories, so their order can't be checked")
    elif data is not None:
        try:
            check_categories(data, teacher)
        except ValueError as error:
            found.mistakes.append(one_line(error))


def _describe_input(model: ReKDDistill, found: Findings) -> None:
    convert = model._teacher_input
    if convert.identity:
        found.row("normalisation", "the same for both")
        return
    changes = ["other channel order"] * convert.flip + ["other mean or std"] * convert.affine
    found.row("normalisation", f"converted for the teacher ({', '.join(changes) or 'other padding'})")


def _sizes(cfg: Config) -> list[tuple[int, int]]:
    """(height, width) of the images to try: small ones, then those of the training, which SSD needs."""
    trained = train_scale(cfg)[0][::-1]
    return [trained] if classifies_images(cfg) else [(192, 256), trained]


def _report_losses_at(sizes: list[tuple[int, int]], cfg: Config, model: ReKDDistill, found: Findings) -> dict | None:
    """Report the losses at the first size at which they can be computed, and return its batch; else a mistake."""
    mistake = ""
    for size in sizes:
        batch = synthetic_batch(model, _num_classes(model) or len(data_classes(cfg) or "ab"), size)
        try:
            report_losses(model, batch, found)
            return batch
        except InputError as error:  # feature maps that do not fit a feature loss
            mistake = one_line(error)
            break
        except (RuntimeError, AssertionError, ValueError) as error:  # rows that do not correspond, or too few pixels
            mistake = (
                f"the losses of generated images of {size[0]} x {size[1]} pixels can't be computed: "
                f"{one_line(error) or type(error).__name__} (raised in {raised_in(error)}). Are they too small? "
                "--size sets others"
            )
    found.mistakes.append(mistake)
    return None


def _check_schedule(cfg: Config, found: Findings) -> None:
    scaling = cfg.get("auto_scale_lr") or {}
    images = (cfg.get("train_dataloader") or {}).get("batch_size")
    base = scaling.get("base_batch_size")
    if base and images and base < images:
        found.notes.append(
            f"auto_scale_lr.base_batch_size is {base}, less than the {images} images of a single GPU, so it is "
            "probably not what the learning rate was tuned for: correct it before you train with --auto-scale-lr"
        )
    elif base and images and not scaling.get("enable"):
        found.notes.append(
            f"the learning rate is meant for {base} images per step, {base // images} GPUs at {images} per GPU; "
            "with another number of GPUs train with --auto-scale-lr"
        )
    if (runner := type_name(cfg.get("runner_type", "ReKDRunner"))) != "ReKDRunner":
        found.notes.append(f"with runner_type='{runner}' a resumed training is not exact; 'rekd_det.ReKDRunner' is")


def _num_classes(model: ReKDDistill) -> int | None:
    if model.distiller.adapter is not None and model.distiller.adapter.num_classes is not None:
        return model.distiller.adapter.num_classes
    counts = [getattr(m, "num_classes", None) for n, m in model.student.named_modules() if n.endswith("bbox_head")]
    counts += [getattr(m, "num_classes", None) for n, m in model.student.named_modules() if "bbox_head." in n]
    return next((c for c in counts if isinstance(c, int)), None)


def _millions(module: torch.nn.Module) -> str:
    return f"{count_parameters(module) / 1e6:.1f}"


def _some(names: tuple[str, ...] | None, where: str) -> str:
    if names is None:
        return f"not named in the {where}"
    return f"{len(names)} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
