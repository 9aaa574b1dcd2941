"""The fused losses as one autograd node.

Shape legend: ``N`` rows, ``C`` logits per row, ``J`` named parts of a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rekd_det.models.losses.kernels.spec import KDSpec


@dataclass
class LossInputs:
    """The inputs of a loss: ``(N, C)`` logits, ``(N,)`` int64 labels or None, ``(N,)`` weights or None."""

    student: Tensor
    teacher: Tensor
    labels: Tensor | None
    weight: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """What the arithmetic is done in: fp64 for fp64 logits, else fp32."""
        double = torch.float64 in (self.student.dtype, self.teacher.dtype)
        return torch.float64 if double else torch.float32


def computes_early(inputs: LossInputs) -> bool:
    """Whether forward may compute the gradient, for backward to scale.

    Not for fp16: without AMP's loss scale, which comes with the upstream gradient, small gradients would round to 0.
    """
    return inputs.student.dtype != torch.float16


class Engine(Protocol):
    """Computes the parts of a loss and their gradient. ``scale`` multiplies all parts."""

    def forward(
        self, inputs: LossInputs, spec: KDSpec, scale: float | Tensor, with_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The parts ``(J,)``, the weighted sum of the top-K sets' masses ``()``, and a buffer for :meth:`backward`.

        The buffer ``(N, C)``, in the student's dtype, holds the gradient of the sum of the parts where an engine has
        computed it on the way.
        """

    def backward(
        self, inputs: LossInputs, spec: KDSpec, scale: float | Tensor, upstream: Tensor, buffer: Tensor | None
    ) -> Tensor:
        """The gradient ``(N, C)`` for the ``(J,)`` upstream gradients; may overwrite and return ``buffer``."""


class _LogitKD(torch.autograd.Function):
    """Keeps one ``(N, C)`` buffer between forward and backward, and references to its inputs.

    The first backward takes the buffer and scales it in place. A second backward (``retain_graph=True``), or one
    for parts with different upstream gradients, computes the gradient again from the inputs: exact in every
    case, and a buffer that was handed out is never written to again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor | None,
        weight: Tensor | None,
        scale: float | Tensor,
        spec: KDSpec,
        engine: Engine,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        inputs = LossInputs(student, teacher, labels, weight)
        parts, mass, ctx.buffer = engine.forward(inputs, spec, scale, with_grad)
        if with_grad:
            ctx.save_for_backward(student, teacher, labels, weight, scale if isinstance(scale, Tensor) else None)
            ctx.spec, ctx.engine = spec, engine
            ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.mark_non_differentiable(mass)
        return parts, mass

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, labels, weight, scale = ctx.saved_tensors
        buffer, ctx.buffer = ctx.buffer, None
        inputs = LossInputs(student, teacher, labels, weight)
        with torch.no_grad():
            grad = ctx.engine.backward(inputs, ctx.spec, ctx.scale if scale is None else scale, upstream, buffer)
        if torch.is_grad_enabled():  # create_graph=True
            grad = _Once.apply(grad, student, upstream)
        return grad, None, None, None, None, None, None, None


class _Once(torch.autograd.Function):
    """Ties a gradient to what it depends on, so that differentiating it again raises.

    ``once_differentiable`` would not do: for a constant upstream gradient it returns a constant, and the second
    derivative would be missing silently.
    """

    @staticmethod
    def forward(ctx: Any, grad: Tensor, student: Tensor, upstream: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "the fused distillation losses can be differentiated once; second derivatives need backend='eager'"
        )


def logit_kd(
    student: Tensor,
    teacher: Tensor,
    spec: KDSpec,
    engine: Engine,
    labels: Tensor | None = None,
    weight: Tensor | None = None,
    scale: float | Tensor = 1.0,
) -> tuple[dict[str, Tensor], Tensor]:
    """The parts of a loss, summed over the rows, and the weighted sum of the teacher's masses of the top-K sets.

    Args:
        student: ``(N, C)`` logits, any strides.
        teacher: ``(N, C)`` logits of the same rows; no gradient flows into them.
        spec: the loss.
        engine: see :func:`rekd_det.models.losses.kernels.dispatch.engine`.
        labels: ``(N,)`` int64, for ``spec.select == 'target'``. A row whose label is not a class counts 0 in the parts.
        weight: ``(N,)`` weight of each row, without gradient.
        scale: multiplies every part, e.g. ``tau**2 / avg_factor``; a 0-dim tensor stays on its device.

    Returns:
        Parts by name, 0-dim, differentiable once with respect to ``student``; ``sum_n weight_n * P_n``, 0-dim.
    """
    with_grad = student.requires_grad and torch.is_grad_enabled()
    # The arithmetic is fp32 or better whatever autocast says.
    with torch.autocast(student.device.type, enabled=False):
        parts, mass = _LogitKD.apply(student, teacher.detach(), labels, weight, scale, spec, engine, with_grad)
    return {part.name: value for part, value in zip(spec.parts, parts.unbind(0), strict=True)}, mass
