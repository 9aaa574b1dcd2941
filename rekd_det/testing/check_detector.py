"""Check for a detector's config that its classification can be distilled.

The detector, tiny and with random weights, is paired with a teacher that is its copy, then with copies whose weights
were moved. Nothing here knows a particular head, so that it finds what an adapter does not say of itself.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from rekd_det.models.adapters import HeadAdapter, build_adapter
from rekd_det.models.utils.taps import TapSet
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.testing.tiny_detectors import build_random, pair_of, settle, shrink, tiny_batch
from rekd_det.utils.log_names import is_loss

#: teacher's and student's logits differ by no more, relative to ``1 + |logit|``, where attention is over fewer queries
#: or takes another kernel; everywhere else by nothing
ATTENTION_TOLERANCE = 1e-5
#: sizes in pixels that are tried in this order until the detector can be trained on one
_SIZES = ((96, 128), (288, 320), (320, 320))
#: an epoch at which no detector of the zoo is in its first phase any more
_EPOCH = 20


class CheckFailed(AssertionError):
    """A check failed."""


class NotRunnable(RuntimeError):
    """The detector itself, without distillation, can't be trained here."""


@dataclass(frozen=True)
class Facts:
    """What the check saw of a pair that passed.

    Args:
        rows: number of rows in the step, over all entries.
        difference: largest difference between the rows of equal networks.
    """

    head: str
    adapter: str
    activation: str
    rows: int
    difference: float


def check_detector(config: Mapping) -> Facts:
    """Build a detector of the zoo at a tiny size and check its pairing.

    Args:
        config: the zoo's model config.

    Returns:
        What was seen.

    Raises:
        CheckFailed: if something does not hold; the message says what.
        NotRunnable: if MMDetection itself can't train the detector here.
        TypeError: if its head is not supported.
    """
    _set_progress()
    student, batch = _runnable(config)
    build_adapter(student, student)  # refuses an unsupported head before the work
    settle(student, batch["inputs"])
    # Some heads keep what they computed last, which a copy can't hold: take the copies first.
    teachers = [copy.deepcopy(student) for _ in range(3)]
    plain = copy.deepcopy(student)
    model = _pair(student, teachers[0])
    _train(student, batch)  # heads set attributes of their own in their first step
    before = _state(student)
    step = _step(model, batch)
    for _ in range(2):  # what a detector counts, both have counted as often
        _train(plain, batch)
    tolerance = _check_identity(model, step)
    _check_nothing_left(before, _state(student))
    _check_one_forward(model, plain, batch)
    _check_plain_losses(model, plain, batch)
    _check_students_rows(step, student, teachers[1], batch, tolerance)
    _check_other_teacher(student, teachers[2], batch)
    adapter = model.distiller.adapter
    return Facts(
        head=type(adapter.student).__name__,
        adapter=type(adapter).__name__,
        activation=adapter.meaning.activation,
        rows=sum(len(e.student) for e in step.rows),
        difference=max((float((e.student - e.teacher).abs().max()) for e in step.rows if len(e.student)), default=0.0),
    )


@dataclass
class _Step:
    losses: dict[str, Any]
    rows: list[AlignedLogits]

    @property
    def distill(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.losses.items() if k.startswith("distill.") and is_loss(k)}


def _runnable(config: Mapping) -> tuple[Any, dict]:
    """A tiny detector and a batch at the smallest size at which MMDetection itself can train it."""
    last: Exception | None = None
    for size in _SIZES:
        try:
            student = build_random(shrink(config))
            batch = tiny_batch(student, size)
            _train(copy.deepcopy(student), batch)
        except Exception as error:  # any error that a detector raises at this size
            last = error
            continue
        return student, batch
    raise NotRunnable(f"{type(last).__name__}: {(str(last).strip().splitlines() or [''])[0]}") from last


def _pair(student: Any, teacher: Any) -> Any:
    # ReKD's tail needs two logits outside the top-K set; what is checked here does not depend on the loss.
    few = build_adapter(student, teacher).num_logits < 3
    return pair_of(student, teacher, dict(type="mmrazor.KDLoss") if few else None)


def _set_progress() -> None:
    hub = MessageHub.get_current_instance()  # some heads ask it how far training is
    hub.update_info("epoch", _EPOCH)
    hub.update_info("iter", 0)


def _train(detector: Any, batch: Mapping) -> dict[str, Any]:
    """The losses of a training step, which starts from the same random state each time."""
    set_random_seed(5)
    return detector(**copy.deepcopy(batch), mode="loss")


def _step(model: Any, batch: Mapping) -> _Step:
    """One training step, with a look at the rows."""
    rows: list[AlignedLogits] = []
    with TapSet() as taps, _same_kernels(model.teacher):
        taps.add_method(model.distiller.adapter, "align", lambda args, kwargs, aligned: rows.extend(aligned))
        return _Step(_train(model, batch), rows)


def _attends(detector: nn.Module) -> bool:
    return any(isinstance(m, nn.MultiheadAttention) for m in detector.modules())


@contextmanager
def _same_kernels(teacher: nn.Module) -> Iterator[None]:
    """Mark a transformer's weights as trained while it computes under ``no_grad``, which records nothing either way.

    torch takes another kernel for the attention of frozen weights. Six stages of Sparse R-CNN with random weights blow
    that difference in rounding up to 0.01, behind which a wrong row could hide.
    """
    marked = []
    if _attends(teacher):
        marked = [p for n, p in teacher.named_parameters() if n.partition(".")[0] not in ("backbone", "neck")]
    try:
        for p in marked:
            p.requires_grad_(True)
        yield
    finally:
        for p in marked:
            p.requires_grad_(False)


def _check_identity(model: Any, step: _Step) -> float:
    """Equal networks: equal rows, no loss, no gradient. Returns the tolerance that held, 0 if it was to the bit."""
    _require(step.rows, "no rows")
    worst = 0.0
    for entry in step.rows:
        _require(entry.student.shape == entry.teacher.shape, f"rows {entry.student.shape} and {entry.teacher.shape}")
        _require(entry.student.requires_grad, "the student's rows are detached")
        _require(not entry.teacher.requires_grad, "the teacher's rows carry a gradient")
        if len(entry.student):
            difference = (entry.student - entry.teacher).detach().abs() / (1 + entry.teacher.abs())
            worst = max(worst, float(difference.max()))
    tolerance = ATTENTION_TOLERANCE if _attends(model.teacher) and worst > 0 else 0.0
    _require(worst <= tolerance, f"rows of equal networks differ by {worst:.2g}")
    _require(step.distill, "no distillation loss")
    for name, value in step.distill.items():
        _require(abs(float(value)) <= tolerance, f"{name} of equal networks is {float(value):.2g}")
    gradients = _gradients(sum(step.distill.values()), model.architecture)  # type: ignore[arg-type]
    largest = max((float(g.abs().max()) for g in gradients if g is not None), default=0.0)
    _require(largest <= max(1e-6, 10 * tolerance), f"distillation of equal networks has a gradient of {largest:.2g}")
    return tolerance


def _check_nothing_left(before: dict, after: dict) -> None:
    left = sorted({name for name in after if after[name] != before.get(name)})
    _require(not left, f"hooks or attributes left on {', '.join(left[:3]) or 'the student'}")


def _check_one_forward(model: Any, plain: Any, batch: Mapping) -> None:
    ours = _count_runs(model.architecture, lambda: _step(model, batch))
    alone = _count_runs(plain, lambda: _train(plain, batch))
    _require(ours == alone, f"the student's backbone runs {ours} times, alone {alone} times")


def _check_plain_losses(model: Any, plain: Any, batch: Mapping) -> None:
    """At weight 0 the student's losses are those it has without distillation, and the distillation's are 0."""
    model.distiller.scale = 0.0
    ours = _step(model, batch)
    alone = _train(plain, batch)
    for name, value in alone.items():
        pairs = zip(_several(value), _several(ours.losses[name]), strict=True)
        _require(all(_same(a, b) for a, b in pairs), f"{name} of the student changes with a distillation of weight 0")
    _require(all(float(v) == 0 for v in ours.distill.values()), "distillation losses of weight 0 are not 0")
    model.distiller.scale = 1.0


def _check_students_rows(step: _Step, student: Any, teacher: Any, batch: Mapping, tolerance: float) -> None:
    """Rows stay equal when everything in the teacher is moved that the student's logits do not depend on.

    That is what proposes, regresses, ranks and masks: a teacher that used its own RoIs, queries or positives would
    answer about other rows now.
    """
    total = torch.stack([e.student.sum() for e in step.rows]).sum()
    independent = {
        name
        for (name, p), gradient in zip(student.named_parameters(), _gradients(total, student), strict=True)
        if gradient is None and p.requires_grad  # autograd has no information about frozen layers
    }
    adapter = build_adapter(student, teacher)
    moved = {n: p for n, p in teacher.named_parameters() if n in independent and not _in_chain(adapter, teacher, n)}
    _move(list(moved.values()), 1.0)
    again = _step(_pair(student, teacher), batch)
    _require(len(again.rows) == len(step.rows), "the teacher's other parts decide which heads are compared")
    for entry in again.rows:
        _require(entry.student.shape == entry.teacher.shape, "the teacher's other parts decide how many rows there are")
        close = torch.allclose(entry.student, entry.teacher, rtol=tolerance, atol=tolerance)
        _require(close, "the teacher's rows depend on its own regression, proposals or positives")


def _check_other_teacher(student: Any, teacher: Any, batch: Mapping) -> None:
    """Other weights: positive, finite losses with a finite gradient, for the student alone."""
    _move(list(teacher.parameters()), 0.2)
    model = _pair(student, teacher)
    step = _step(model, batch)
    _require(any(not torch.equal(e.student, e.teacher) for e in step.rows), "another teacher gives the same rows")
    for name, value in step.distill.items():
        _require(bool(torch.isfinite(value)) and float(value) > 0, f"{name} of another teacher is {float(value):.2g}")
    gradients = _gradients(sum(step.distill.values()), student)  # type: ignore[arg-type]
    finite = all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)
    _require(finite and any(g is not None for g in gradients), "the distillation's gradient is not finite")
    _require(not any(p.requires_grad for p in teacher.parameters()), "the teacher is not frozen")


#: parameters that the teacher's logits do depend on although no gradient flows there, by adapter: features adapted to
#: predicted shapes, and predictions matched by their boxes
_CHAINS: dict[str, tuple[str, ...]] = {
    "GARetinaAdapter": ("conv_shape", "reg_convs"),
    "QueryAdapter": ("bbox_head.reg_ffn", "bbox_head.fc_reg"),
    "QueryRCNNAdapter": ("roi_head.bbox_head", "rpn_head"),
    "MaskQueryAdapter": ("panoptic_head",),
}
_BRANCH = re.compile(r"bbox_head\.reg_branches\.(\d+)\.")


def _in_chain(adapter: HeadAdapter, teacher: Any, name: str) -> bool:
    if any(part in name for part in _CHAINS.get(type(adapter).__name__, ())):
        return True
    branch = _BRANCH.match(name)
    # Decoder layers refine boxes that the next one starts from; the branch after the last is the encoder's, which
    # proposes.
    return branch is not None and int(branch[1]) < teacher.decoder.num_layers


def _gradients(value: Tensor, module: nn.Module) -> list[Tensor | None]:
    parameters = [p if p.requires_grad else None for p in module.parameters()]
    wanted = [p for p in parameters if p is not None]
    found = iter(torch.autograd.grad(value, wanted, retain_graph=True, allow_unused=True))
    return [None if p is None else next(found) for p in parameters]


def _move(parameters: list[nn.Parameter], scale: float) -> None:
    """Add noise relative to each parameter's size: absolute noise blows up a deep network in eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in parameters:
            size = scale * float(p.abs().mean().clamp(min=0.01))
            p.add_(torch.randn(p.shape, generator=generator) * size)


def _state(module: nn.Module) -> dict[str, tuple]:
    return {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks), frozenset(vars(m)))
        for name, m in module.named_modules()
    }


def _count_runs(detector: Any, run: Callable[[], object]) -> int:
    calls: list[int] = []
    with TapSet() as taps:
        taps.add(detector.backbone, lambda *_: calls.append(1))
        run()
    return len(calls)


def _several(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _same(a: Any, b: Any) -> bool:
    return torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise CheckFailed(message)
