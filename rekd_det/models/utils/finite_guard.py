"""Stop a run whose distillation loss is no longer a number, and say whose fault it is."""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.structures.aligned_logits import AlignedLogits


class NonFiniteLoss(FloatingPointError):
    """A distillation loss is NaN or infinite."""


class FiniteGuard:
    """Checks each step's distillation loss without waiting for the GPU.

    On the CPU the step that goes wrong is stopped at once. On a GPU the verdict is copied to pinned memory behind the
    kernels and read one step later or more, whenever it has arrived.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def __deepcopy__(self, memo: dict) -> FiniteGuard:
        return FiniteGuard()  # events can't be copied, and a copy (EMA) trains nothing

    def check(self, total: Tensor, aligned: list[AlignedLogits]) -> None:
        """Raise NonFiniteLoss if ``total`` (this step's on the CPU, an earlier step's on a GPU) is NaN or infinite.

        Args:
            total: scalar, the sum of the step's distillation losses, detached.
            aligned: the logits it came from, looked at only to explain a failure.
        """
        if total.device.type != "cuda":
            if not torch.isfinite(total):
                raise NonFiniteLoss(_explain(aligned))
            return
        if self._pending is not None:
            value, event = self._pending
            if not event.query():
                return  # still on its way; look again next step
            if not torch.isfinite(value):
                raise NonFiniteLoss(
                    "the distillation loss became NaN or infinite in an earlier step; the student has diverged (lower "
                    "the learning rate or the distillation weights) or the teacher's logits are not finite"
                )
        value = torch.empty((), dtype=total.dtype, pin_memory=True)
        value.copy_(total, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = value, event


def _explain(aligned: list[AlignedLogits]) -> str:
    for entry in aligned:
        where = f" of head {entry.tag!r}" if entry.tag else ""
        for role, logits, advice in (
            ("teacher", entry.teacher, "check model.teacher_ckpt and the teacher's normalisation"),
            ("student", entry.student, "it has diverged: lower the learning rate"),
        ):
            if torch.isnan(logits).any() or (logits == float("inf")).any():
                return f"the {role}'s logits{where} hold NaN or +inf; {advice}"
    return (
        "the distillation loss is NaN or infinite although all logits are finite; "
        "lower the distillation weights, or check the rows' weights and avg_factor"
    )
