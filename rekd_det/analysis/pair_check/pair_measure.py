"""What a pair costs and how strongly it distils, measured on generated images before any training."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from rekd_det.apis.export import count_parameters
from rekd_det.models.algorithms.rekd_distill import ReKDDistill
from rekd_det.models.teachers.lean import LeanRun
from rekd_det.utils.generated_data import generated_data
from rekd_det.utils.log_names import is_loss


@dataclass(frozen=True)
class LossShare:
    """One loss at the start of the training.

    Args:
        name: as in the log.
        value: its size, weights included.
        gradient: L2 norm of its gradient on the shared layers.
    """

    name: str
    value: float
    gradient: float


@dataclass(frozen=True)
class Cost:
    """What one detector costs.

    Args:
        parameters: their number.
        size: (height, width) of the images it was measured at.
        feature_flops: operations of backbone and neck for one image (a multiply-add counts as 2).
        total_flops: of the whole forward pass for one image; None where the detector has no such pass.
        feature_bytes: of its feature maps for one image, in fp32.
        largest_bytes: of the largest output of a layer of backbone or neck for one image, in fp32.
    """

    parameters: int
    size: tuple[int, int]
    feature_flops: int
    total_flops: int | None
    feature_bytes: int
    largest_bytes: int


def synthetic_batch(
    model: ReKDDistill, num_classes: int, size: tuple[int, int], images: int = 2, objects: int = 5
) -> dict:
    """A preprocessed batch of noise with random objects; images of a classifier have a random label.

    Args:
        model: the pair.
        num_classes: labels are drawn below it.
        size: (height, width) in pixels.
        images: how many.
        objects: boxes of each image.
    """
    # Batch augmentations and some losses ask the Runner's message hub how far the training is.
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0, max_iters=1, max_epochs=1))
    student = model.student
    if hasattr(student, "head"):
        return model.data_preprocessor(_classified_images(num_classes, size, images), True)
    semantic = any(hasattr(m, "semantic_head") for m in student.modules()) or hasattr(student, "panoptic_head")
    return model.data_preprocessor(generated_data(student, num_classes, size, images, objects, semantic), True)


def _classified_images(num_classes: int, size: tuple[int, int], images: int) -> dict:
    from mmpretrain.structures import DataSample  # optional

    labels = torch.randint(0, num_classes, (images,))
    samples = [DataSample(metainfo=dict(num_classes=num_classes, img_shape=size)).set_gt_label(x) for x in labels]
    return dict(inputs=torch.randint(0, 256, (images, 3, *size), dtype=torch.uint8), data_samples=samples)


def loss_shares(model: ReKDDistill, batch: Mapping) -> tuple[list[LossShare], dict[str, float], str]:
    """Each loss at the start, with its gradient on the layers that all losses share.

    Args:
        model: the pair, in training mode.
        batch: of :func:`synthetic_batch`.

    Returns:
        The losses, the statistics logged beside them, and the name of the shared layers: the student's neck, or its
        backbone where it has none.
    """
    name = "neck" if any(p.requires_grad for p in _part(model.student, "neck")) else "backbone"
    shared = [p for p in _part(model.student, name) if p.requires_grad]
    shares, statistics = [], {}
    for key, value in _losses(model, batch, alone=False).items():
        total: Tensor = sum(v.mean() for v in value) if isinstance(value, (list, tuple)) else value.mean()  # type: ignore
        if not is_loss(key):
            statistics[key] = float(total.detach())
            continue
        norm = 0.0
        if total.requires_grad:
            grads = torch.autograd.grad(total, shared, retain_graph=True, allow_unused=True)
            norm = float(torch.stack([g.square().sum() for g in grads if g is not None] or [total.new_zeros(())]).sum())
        shares.append(LossShare(key, float(total.detach()), norm**0.5))
    return shares, statistics, name


def detector_cost(detector: Any, batch: Mapping, lean: LeanRun | None = None) -> Cost:
    """Count a detector's parameters, operations and feature maps on the first image of a batch.

    Args:
        detector: any detector; its mode is restored.
        batch: of :func:`synthetic_batch`.
        lean: how the detector is called, if it is a pair's teacher (``model.distiller.lean``).
    """
    lean = lean or LeanRun()
    image, samples = batch["inputs"][:1], batch["data_samples"][:1]
    largest = [0]

    def remember(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], output.numel() * 4)

    was_training = detector.training
    detector.eval()
    hooks = [m.register_forward_hook(remember) for m in detector.modules() if not list(m.children())]
    try:
        with torch.no_grad(), lean.precision(image.device):
            feats: list = []
            feature_flops = _count_flops(lambda: feats.extend(tree_leaves(detector.extract_feat(image))))
            assert feature_flops is not None
            for hook in hooks:  # an RoI head's outputs do not grow with the image
                hook.remove()
            total = _count_flops(lambda: detector(image, samples, mode="tensor"), optional=True)
    finally:
        for hook in hooks:
            hook.remove()
        detector.train(was_training)
    return Cost(
        parameters=count_parameters(detector),
        size=tuple(image.shape[-2:]),
        feature_flops=feature_flops,
        total_flops=total,
        feature_bytes=sum(f.numel() * 4 for f in feats if isinstance(f, Tensor)),
        largest_bytes=largest[0],
    )


def step_flops(model: ReKDDistill, batch: Mapping) -> tuple[int, int]:
    """Operations of one forward pass for the losses: of the student alone, and what the distillation adds."""
    student, pair = (_count_flops(functools.partial(_losses, model, batch, alone)) or 0 for alone in (True, False))
    return student, pair - student


def _losses(model: ReKDDistill, batch: Mapping, alone: bool) -> dict:
    """The losses of a step of the student alone, or of the pair."""
    samples = copy.deepcopy(batch["data_samples"])  # RTMDet-Ins rewrites its masks
    return (model._student_losses if alone else model.loss)(batch["inputs"], samples)


def step_seconds(model: ReKDDistill, batch: Mapping) -> tuple[float, float]:
    """Seconds of one forward and backward pass of the student alone, and of the pair.

    Each is the best of two alternating runs, because the first call is slow.
    """
    best = {True: float("inf"), False: float("inf")}
    for _ in range(2):
        for alone in (True, False):
            start = time.perf_counter()
            total, _ = model.parse_losses(_losses(model, batch, alone))
            total.backward()
            best[alone] = min(best[alone], time.perf_counter() - start)
            model.zero_grad(set_to_none=True)
    return best[True], best[False]


def _part(student: nn.Module, name: str) -> list[nn.Parameter]:
    part = getattr(student, name, None)
    return list(part.parameters()) if isinstance(part, nn.Module) else []


def _count_flops(run: Callable[[], Any], optional: bool = False) -> int | None:
    with FlopCounterMode(display=False) as counter:
        try:
            run()
        except Exception:  # some detectors have no such forward pass
            if not optional:
                raise
            return None
    return counter.get_total_flops()
