"""Report what a pair costs: operations, parameters, time and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mmengine.config import Config

from rekd_det.analysis.pair_check.findings import Findings
from rekd_det.analysis.pair_check.pair_measure import Cost, detector_cost, step_flops, step_seconds
from rekd_det.analysis.pair_check.training_data import train_scale
from rekd_det.models.algorithms.rekd_distill import ReKDDistill


def report_cost(cfg: Config, model: ReKDDistill, batch: Mapping, found: Findings) -> None:
    """Add both detectors' operations and parameters, a step's time, and the memory that the teacher needs.

    Args:
        cfg: the config of the pair.
        model: the pair.
        batch: ``inputs`` and ``data_samples`` of one step.
        found: what is added to.
    """
    (width, height), said = train_scale(cfg)
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
