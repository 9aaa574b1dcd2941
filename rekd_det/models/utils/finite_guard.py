"""Stop a run whose distillation loss is NaN or infinite, and say which network's logits caused it."""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.structures.aligned_logits import AlignedLogits

#: consecutive bad steps that end a run in fp16
PATIENCE = 20


EARLIER = (
    "the distillation loss became NaN or infinite in an earlier step; the student has diverged (lower the learning "
    "rate or the distillation weights) or the teacher's logits are not finite"
)


class NonFiniteLoss(FloatingPointError):
    """A distillation loss is NaN or infinite."""


class FiniteGuard:
    """Counts the steps in a row whose distillation loss is NaN or infinite, without waiting for the GPU.

    One such step ends a run, because it would make every weight NaN. Under autocast to fp16 it takes ``PATIENCE`` steps
    in a row: numbers overflow there now and then, and the gradient scaler leaves such a step out.

    On the CPU the run ends at once. On a GPU the count is copied to pinned memory behind the kernels and read one step
    later or more, whenever it has arrived, and before a checkpoint is saved in any case. mmdet's
    ``CheckInvalidLossHook`` waits for the GPU, looks at every 50th step alone, ends runs in fp16 too, and does not say
    whose logits are wrong.
    """

    def __init__(self) -> None:
        self._in_a_row: Tensor | None = None
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None
        self._limit = 1

    def __deepcopy__(self, memo: dict) -> FiniteGuard:
        return FiniteGuard()  # events can't be copied, and a copy (EMA) trains nothing

    def check(self, total: Tensor, aligned: list[AlignedLogits]) -> None:
        """Raise NonFiniteLoss if too many losses in a row (an earlier step's included, on a GPU) are NaN or infinite.

        Args:
            total: scalar, the sum of the step's distillation losses, detached.
            aligned: the logits it came from, looked at only to explain a failure.
        """
        bad = ~torch.isfinite(total)
        self._in_a_row = bad.long() if self._in_a_row is None else (self._in_a_row + 1) * bad
        arrived = self._arrived(self._in_a_row)
        self._limit = PATIENCE if _scales(total.device.type) else 1
        if arrived is not None and arrived >= self._limit:
            # The run ends here, so it may wait for the GPU.
            raise NonFiniteLoss(_explain(aligned) if bad else EARLIER)

    def failed(self) -> bool:
        """Whether the last step's loss ends the run; waits for the GPU."""
        return self._in_a_row is not None and bool(self._in_a_row >= self._limit)

    def _arrived(self, count: Tensor) -> Tensor | None:
        """Send a count on its way from a GPU to the CPU, and take the one that was sent before, if it is there."""
        if count.device.type != "cuda":
            return count
        arrived = None
        if self._pending is not None:
            arrived, event = self._pending
            if not event.query():
                return None  # not arrived yet; look again in the next step
        value = torch.empty((), dtype=count.dtype, pin_memory=True)
        value.copy_(count, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = value, event
        return arrived


def _scales(device: str) -> bool:
    """Whether the step runs in fp16, whose gradients mmengine's AmpOptimWrapper scales."""
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16


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
