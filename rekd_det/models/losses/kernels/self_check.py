"""Check of an engine before its first use on a GPU: it must build and agree with the reference.

Shape legend: ``C`` logits per row, ``J`` named parts of a loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.models.losses.functional import append_background
from rekd_det.models.losses.kernels.eager import row_terms
from rekd_det.models.losses.kernels.function import Engine, logit_kd
from rekd_det.models.losses.kernels.spec import KDSpec

ROWS = 48
#: fp32 sums in another order, and what a half-precision gradient is rounded to, twice
VALUE_TOLERANCE = 1e-4
GRAD_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-7, torch.float16: 2**-10}


class WrongKernel(RuntimeError):
    """A kernel computes something other than the reference."""


@torch.inference_mode(False)
@torch.enable_grad()
def compare(engine: Engine, name: str, spec: KDSpec, student: Tensor, teacher: Tensor, weighted: bool) -> None:
    """Compute a few random rows with an engine and with the reference, forward and both ways of backward.

    Args:
        engine: the engine.
        name: what it is called in the message.
        spec: the loss.
        student: logits ``(N, C)`` that the loss is going to see. Only C, dtype and device of them are used.
        teacher: the same.
        weighted: whether the rows will have weights.

    Raises:
        WrongKernel: if a value or gradient differs; the message gives both.
        Exception: whatever the engine raises where it can't be built.
    """
    generator = torch.Generator().manual_seed(0)
    num_logits = student.shape[1]
    s, t = (torch.randn(2, ROWS, num_logits, generator=generator, device="cpu") * 3).unbind()
    t[:8] = t[:8].round()  # ties
    s, t = s.to(student.device, student.dtype), t.to(teacher.device, teacher.dtype)
    labels = (torch.arange(ROWS) % (num_logits + 1)).to(s.device)
    weight = torch.rand(ROWS, generator=generator, device="cpu").to(s.device) if weighted else None
    # The first are the usual ones; with the others the gradient is computed anew in backward.
    for upstream in ([1.0] * len(spec.parts), [1.0, *[0.5] * (len(spec.parts) - 1)]):
        factors = torch.tensor(upstream, device=s.device)
        leaf = s.clone().requires_grad_()
        parts, _ = logit_kd(leaf, t, spec, engine, labels, weight, 1.0 / ROWS)
        values = torch.stack([*parts.values()])
        (grad,) = torch.autograd.grad((values * factors).sum(), leaf)
        want, want_grad = _reference(s, t, labels, weight, spec, factors)
        _same(name, f"{spec}: the parts {[*parts]}", values.detach().double(), want, VALUE_TOLERANCE)
        _same(name, f"{spec}: the gradient", grad.double(), want_grad, GRAD_TOLERANCE[s.dtype])


def _reference(
    s: Tensor, t: Tensor, labels: Tensor, weight: Tensor | None, spec: KDSpec, factors: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = s.double().requires_grad_()
    with torch.autocast(s.device.type, enabled=False):
        pair = leaf, t.double()
        if spec.activation == "implicit_bg":
            pair = append_background(pair[0]), append_background(pair[1])
        parts, _ = row_terms(*pair, labels, spec)
        rows = torch.stack([*parts.values()])
        values = (rows if weight is None else rows * weight).sum(1) / ROWS
        (grad,) = torch.autograd.grad((values * factors).sum(), leaf)
    return values.detach(), grad


def _same(name: str, what: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    apart = (got - want).abs()
    # not <=: NaN
    if not bool((apart <= tolerance * want.abs().max() + 1e-9).all()):
        worst = int(apart.nan_to_num(torch.inf).argmax())
        raise WrongKernel(
            f"the {name} engine does not compute what the eager one does on {got.device}: {what}: {name} gives "
            f"{got.flatten()[worst].item():.6g} where eager gives {want.flatten()[worst].item():.6g}. This is a fault "
            "of the kernel or of its compiler: train with backend='eager' in the loss's config, and please report it"
        )
