"""Check a pair before its training, and describe what is wrong with it."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from rekd_det.analysis.pair_check.pair_measure import (
    Cost,
    LossShare,
    detector_cost,
    loss_shares,
    step_flops,
    step_seconds,
    synthetic_batch,
)
from rekd_det.apis.build_errors import explain_build_error
from rekd_det.apis.class_names import read_names
from rekd_det.apis.export import count_parameters
from rekd_det.engine.hooks.pair_check_hook import check_categories
from rekd_det.models.algorithms.rekd_distill import ReKDDistill
from rekd_det.utils.checkpoint import STUDENT_PREFIX, load_checkpoint_file, weights_of
from rekd_det.utils.config_types import default_scope, type_class, type_name
from rekd_det.utils.errors import InputError, one_line, raised_in
from rekd_det.utils.pair_config import classifies_images, model_config, require_pair, resolve_model_config
from rekd_det.utils.pretrained import drop_pretrained

#: a note is added if the distillation's share of the gradient is outside this range
_USUAL_SHARE = 0.01, 0.9


@dataclass
class Findings:
    """What a check found: lines to print, mistakes that make a training worthless, and notes that may be intended."""

    lines: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def section(self, title: str) -> None:
        self.lines += ["", title, "-" * len(title)]

    def row(self, name: str, value: object) -> None:
        self.lines.append(f"{name:<16} {value}")

    def text(self) -> str:
        """Everything as text; the mistakes come last, where a reader looks first."""
        out = list(self.lines)
        for title, entries in (("Notes", self.notes), ("Mistakes", self.mistakes)):
            if entries:
                out += ["", title, "-" * len(title), *(f"* {entry}" for entry in entries)]
        out += ["", f"{len(self.mistakes)} mistakes, {len(self.notes)} notes"]
        return "\n".join(out).lstrip("\n")


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
        _report_cost(cfg, model, batch, found)
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
    data, teacher, heads = _data_classes(cfg), model.teacher_classes, _num_classes(model)
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
    trained = _train_scale(cfg)[0][::-1]
    return [trained] if classifies_images(cfg) else [(192, 256), trained]


def _report_losses_at(sizes: list[tuple[int, int]], cfg: Config, model: ReKDDistill, found: Findings) -> dict | None:
    """Report the losses at the first size at which they can be computed, and return its batch; else a mistake."""
    mistake = ""
    for size in sizes:
        batch = synthetic_batch(model, _num_classes(model) or len(_data_classes(cfg) or "ab"), size)
        try:
            _report_losses(model, batch, found)
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


def _report_losses(model: ReKDDistill, batch: Mapping, found: Findings) -> None:
    shares, statistics, layers = loss_shares(model, batch)
    found.section(f"Losses at the start (generated images; gradient on the student's {layers})")
    whole = sum(s.gradient for s in shares) or 1.0
    found.lines.append(f"{'':<28} {'loss':>10} {'gradient':>10} {'share':>7}")
    for share in shares:
        found.lines.append(
            f"{share.name:<28} {share.value:>10.4f} {share.gradient:>10.4f} {share.gradient / whole:>7.1%}"
        )
    for name, value in statistics.items():
        found.lines.append(f"{name:<28} {value:>10.4f}")
    for share in shares:
        if not math.isfinite(share.value):
            found.mistakes.append(
                f"{share.name} is {share.value} at the start: check the teacher's weights and the loss's options"
            )
    distill = [s for s in shares if s.name.startswith("distill.")]
    _judge_share(distill, whole, layers, len(distill) == len(shares), found)


def _judge_share(distill: list[LossShare], whole: float, layers: str, alone: bool, found: Findings) -> None:
    share = sum(s.gradient for s in distill) / whole
    idle = [s.name for s in distill if not s.gradient]
    least, most = _USUAL_SHARE
    if not share:
        found.mistakes.append(
            "the distillation has no gradient on the student: are alpha, beta or loss_weight of "
            "model.distiller.loss 0, or are teacher and student the same weights?"
        )
        return
    if idle:
        found.notes.append(
            f"{', '.join(idle)} has no gradient on the student's {layers}: is its weight 0? Logits that do not depend "
            f"on the {layers}, as of a mask transformer's first queries, have none either"
        )
    if share < least or (share > most and not alone):
        largest = max(distill, key=lambda s: s.gradient).name
        found.notes.append(
            f"the distillation makes {share:.1%} of the gradient at the start, most of it {largest}: "
            f"{'raise' if share < least else 'lower'} its weight (loss_weight; ReKDLoss: alpha and beta) if that is "
            "not meant"
        )


def _report_cost(cfg: Config, model: ReKDDistill, batch: Mapping, found: Findings) -> None:
    (width, height), said = _train_scale(cfg)
    student = detector_cost(model.student, batch)
    teacher = detector_cost(model.teacher, batch, model.distiller.lean)
    area = width * height / math.prod(student.size)
    found.section("Cost")
    size = f"{width}x{height}" if said else f"{width}x{height} (assumed: the training pipeline names no size)"
    for name, cost in (("student", student), ("teacher", teacher)):
        found.row(name, _describe_cost(cost, area, size))
    alone, both = step_seconds(model, batch)
    shape = f"{student.size[1]}x{student.size[0]}, {len(batch['inputs'])} images, on this machine's CPU"
    found.row("step, measured", f"{alone:.2f} s alone, {both:.2f} s distilled ({both / alone - 1:+.0%}) at {shape}")
    own, extra = (flops / len(batch["inputs"]) for flops in step_flops(model, batch))
    # The rest of a dense head grows with the image; an RoI head keeps its number of RoIs.
    rest = 1.0 if hasattr(model.student, "roi_head") else area
    own = student.feature_flops * area + (own - student.feature_flops) * rest
    extra = teacher.feature_flops * area + (extra - teacher.feature_flops) * rest
    # A backward pass costs about twice its forward pass, and the teacher has none.
    found.row("time, estimated", f"{extra / (3 * own):+.0%} per step at {width}x{height}, from the operations")
    images = (cfg.get("train_dataloader") or {}).get("batch_size", 2)
    maps = images * area * (teacher.feature_bytes + 2 * teacher.largest_bytes)
    weights = f"{4 * teacher.parameters / 2**20:.0f} MiB for the teacher's weights"
    shape = f"{images} images of {width}x{height} per GPU, fp32"
    found.row("memory, estimated", f"{weights} and at most {maps / 2**20:.0f} MiB for its maps ({shape})")


def _describe_cost(cost: Cost, area: float, scale: str) -> str:
    text = f"{cost.parameters / 1e6:.1f} M parameters, {cost.feature_flops * area / 1e9:.3g} GFLOPs for backbone and "
    text += f"neck at {scale} (scaled by area)"
    if cost.total_flops is not None:
        text += f", {cost.total_flops / 1e9:.3g} GFLOPs in all at {cost.size[1]}x{cost.size[0]}"
    return text


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


def _data_classes(cfg: Config) -> tuple[str, ...] | None:
    dataset: Any = (cfg.get("train_dataloader") or {}).get("dataset")
    while isinstance(dataset, Mapping):
        names = (dataset.get("metainfo") or {}).get("classes")
        if names is None:
            kind = dataset.get("type")
            if isinstance(kind, str) and "." not in kind:
                kind = f"{default_scope(cfg)}.{kind}"
            names = getattr(type_class(kind, DATASETS), "METAINFO", {}).get("classes")
        if names is not None:
            return tuple(read_names(names, "train_dataloader.dataset"))
        dataset = _inside(dataset)
    return None


def _inside(wrapper: Mapping) -> Any:
    """The data set in a wrapper's config, or the first of those that it joins; None if it wraps nothing."""
    return wrapper.get("dataset") or next(iter(wrapper.get("datasets") or []), None)


def _num_classes(model: ReKDDistill) -> int | None:
    if model.distiller.adapter is not None and model.distiller.adapter.num_classes is not None:
        return model.distiller.adapter.num_classes
    counts = [getattr(m, "num_classes", None) for n, m in model.student.named_modules() if n.endswith("bbox_head")]
    counts += [getattr(m, "num_classes", None) for n, m in model.student.named_modules() if "bbox_head." in n]
    return next((c for c in counts if isinstance(c, int)), None)


def _train_scale(cfg: Config) -> tuple[tuple[int, int], bool]:
    """(width, height) that the training pipeline resizes or crops to at last, and whether it says so at all."""
    dataset: Any = (cfg.get("train_dataloader") or {}).get("dataset") or {}
    # A wrapper that mixes images has a pipeline of its own, which comes last.
    while isinstance(dataset, Mapping) and "pipeline" not in dataset:
        dataset = _inside(dataset)
    found = None
    for step in (dataset or {}).get("pipeline") or []:
        if not isinstance(step, Mapping):
            continue
        cropped = "crop_size" in step and step.get("crop_type", "absolute") == "absolute"
        scale = step["crop_size"] if cropped else step.get("scale")
        scale = (scale, scale) if isinstance(scale, int) and classifies_images(cfg) else scale
        if isinstance(scale, (tuple, list)) and len(scale) == 2 and all(isinstance(x, int) for x in scale):
            found = max(scale), min(scale)
    return found or ((224, 224) if classifies_images(cfg) else (1333, 800)), found is not None


def _millions(module: torch.nn.Module) -> str:
    return f"{count_parameters(module) / 1e6:.1f}"


def _some(names: tuple[str, ...] | None, where: str) -> str:
    if names is None:
        return f"not named in the {where}"
    return f"{len(names)} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
