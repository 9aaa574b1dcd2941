"""How many GPU hours the runs of a study will take, before any of them is started."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrazor.registry import MODELS
from torch import nn

from rekd_det.analysis.pair_check.pair_measure import step_flops, synthetic_batch
from rekd_det.analysis.utils.pair import quiet
from rekd_det.analysis.utils.tables import markdown
from rekd_det.utils.config_types import default_scope
from rekd_det.utils.pair_config import is_pair, resolve_model_config
from studies.runner.digest import digest_of
from studies.runner.run import Run

#: (height, width) of the images that operations are counted on: from two one knows what grows with the image
_SIZES = (192, 256), (384, 512)
#: of each image; with so many a sampler takes as many positive RoIs as it may, as with a trained RPN, at both sizes. An
#: untrained RPN finds few, and a mask head costs as much for 300 of them as the rest of the detector
_OBJECTS = 150
#: a backward pass costs about twice the forward pass
_FORWARD_AND_BACKWARD = 3
#: what a training on COCO reads: images with objects, drawn at 1333 x 800 or less
IMAGES, PIXELS = 117_266, 800 * 1088


def estimate(runs: Sequence[Run], tflops: float, arms: Collection[str]) -> list[str]:
    """A table of GPU hours of trainings on COCO: operations as ``tools/check_pair.py`` counts them, speed assumed.

    Args:
        runs: of the study. A detector that learns alone is counted where a pair has it as its student.
        tflops: 1e12 operations that a GPU does in a second of such a training; a fifth of its peak is usual.
        arms: names of the arms that are to be trained.
    """
    chosen = [run for run in runs if run.arm in arms]
    students = {digest_of(run.student) for run in chosen}
    pairs = {digest_of(run.config.model): run for run in runs if is_pair(run.config.model)}
    wanted = {digest_of(run.config.model) for run in chosen}
    alone: dict[str, float] = {}
    added: dict[str, float] = {}
    for key, run in pairs.items():
        student = digest_of(run.student)
        if key in wanted or (student in students and student not in alone):
            alone[student], added[key] = _forward_flops(run.config)
    rows, total = [], 0.0
    for run in chosen:
        own = alone.get(digest_of(run.student))
        epochs = run.config.train_cfg.get("max_epochs")
        if own is None or epochs is None:
            rows.append([run.arm, str(run.seed), "-", "-"])
            continue
        flops = _FORWARD_AND_BACKWARD * own + added.get(digest_of(run.config.model), 0.0)
        hours = flops * IMAGES * epochs / (tflops * 1e12) / 3600
        total += hours
        rows.append([run.arm, str(run.seed), f"{flops / 1e9:.0f}", f"{hours:.1f}"])
    rows.append(["all", "", "", f"{total:.0f}"])
    return [
        f"Assumed: {IMAGES} images of {PIXELS} pixels, {tflops:g}e12 operations per second and GPU. Counted: the",
        "operations of student and teacher. Loading images is not, and no training of a teacher; the time of the first",
        "run is the better estimate.",
        "",
        *markdown(["run", "seed", "Gflop per image", "GPU hours"], rows),
    ]


def _forward_flops(config: Config) -> tuple[float, float]:
    """Operations of a pair's losses for an image of ``PIXELS``: the student's, and what the distillation adds."""
    quiet()
    init_default_scope(default_scope(config))
    model = copy.deepcopy(config.model)
    # Weights make no difference, so none are read.
    model.teacher, model.teacher_ckpt = DETECTORS.build(resolve_model_config(model.teacher, "model.teacher")), None
    built = MODELS.build(model)
    built.train()
    small, large = (
        step_flops(built, synthetic_batch(built, _num_classes(built.student), size, images=1, objects=_OBJECTS))
        for size in _SIZES
    )
    alone, added = (_at_full_size(*counts) for counts in zip(small, large, strict=True))
    return alone, added


def _at_full_size(small: int, large: int) -> float:
    """Along the line through both sizes: an R-CNN's head costs the same for each image."""
    pixels = [height * width for height, width in _SIZES]
    return small + (large - small) / (pixels[1] - pixels[0]) * (PIXELS - pixels[0])


def _num_classes(student: nn.Module) -> int:
    found = (getattr(m, "num_classes", None) for m in student.modules())
    return max(n for n in found if isinstance(n, int))
