"""The base of all logit-distillation losses: options, row weights and reduction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rekd_det.models.losses.functional import append_background, standardized
from rekd_det.models.losses.kernels import BACKENDS, KDSpec, check_backend, choose, logit_kd
from rekd_det.models.losses.kernels.dispatch import engine
from rekd_det.models.losses.kernels.eager import row_terms
from rekd_det.structures.logit_meaning import LogitMeaning

ACTIVATIONS = ("softmax", "sigmoid", "implicit_bg")
REDUCTIONS = ("mean", "sum", "none")


class LogitLoss(nn.Module):
    """Base of the losses between student's and teacher's classification logits.

    A subclass defines the loss of a row: in :meth:`kernel_spec` where it is a weighting of the top-K identity's terms,
    else in :meth:`row_terms`. This class multiplies by ``tau**2`` and ``loss_weight``, weighs the rows and reduces.

    Args:
        tau: temperature, > 0.
        activation: how the head turns ``C`` logits into probabilities. 'softmax': over the C logits. 'sigmoid': each
            class by itself. 'implicit_bg': softmax over the C logits and a background logit of 0.
        reduction: 'mean' over the rows (or ``avg_factor``), 'sum', or 'none' for one value per row.
        loss_weight: factor on every part.
        backend: what computes it. 'eager': plain torch and autograd, the reference. 'fused' and 'triton': value and
            gradient in one pass (see :mod:`rekd_det.models.losses.kernels`); differentiable once. 'auto': the fastest
            that serves the input, or 'eager'.
        standardize: compare the z-scores of each row's logits, so that only their relations count and not their range
            (Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024). Softmax only.

    Raises:
        ValueError: if an option has an invalid value; the message names the option.
        ImportError: for ``backend='triton'`` where triton is not installed.
    """

    #: activations that the loss has a meaning for
    activations: tuple[str, ...] = ACTIVATIONS
    #: whether each row needs a class index as its label
    needs_labels = False

    def __init__(
        self,
        tau: float = 1.0,
        activation: str = "softmax",
        reduction: str = "mean",
        loss_weight: float = 1.0,
        backend: str = "auto",
        standardize: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_choice(name, "activation", activation, self.activations)
        check_choice(name, "reduction", reduction, REDUCTIONS)
        check_number(name, "tau", tau, above=0.0)
        check_number(name, "loss_weight", loss_weight, least=0.0)
        check_choice(name, "backend", backend, BACKENDS)
        self.tau = float(tau)
        self.activation = activation
        self.reduction = reduction
        self.loss_weight = float(loss_weight)
        self.backend = backend
        if standardize and activation != "softmax":
            raise ValueError(
                f"{name}: standardize needs activation='softmax', which does not see what it takes away, the mean of a "
                f"row's logits; got activation={activation!r}"
            )
        self.standardize = bool(standardize)

    #: whether kernel_spec() says what row_terms() computes
    _described = True

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass that changes the formula must not be computed from the old description.
        if not {"kernel_spec", "row_terms", "weighted_terms"}.isdisjoint(cls.__dict__):
            cls._described = "kernel_spec" in cls.__dict__

    def kernel_spec(self) -> KDSpec | None:
        """The loss as weights on the terms of the top-K identity, which every engine computes; None for another kind.

        A loss that returns None defines :meth:`row_terms`, and has an eager form only.
        """
        return None

    def row_terms(
        self, student: Tensor, teacher: Tensor, gt_labels: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted parts and statistics per row, before ``tau**2``: what :meth:`kernel_spec` says.

        Args:
            student: ``(N, C)`` logits (background appended where ``activation='implicit_bg'``).
            teacher: ``(N, C)`` logits, detached.
            gt_labels: ``(N,)`` int64 or None.

        Returns:
            Parts by name, which starts with "loss", and statistics, whose names lack the word; each ``(N,)``.
        """
        spec = self.kernel_spec()
        if spec is None:
            raise NotImplementedError(f"{type(self).__name__} must define kernel_spec() or row_terms()")
        return row_terms(student, teacher, gt_labels, spec)

    @property
    def compares_rows(self) -> bool:
        """Whether the value of a row depends on other rows, so that all must be given in one call."""
        return type(self).weighted_terms is not LogitLoss.weighted_terms

    def weighted_terms(
        self, student: Tensor, teacher: Tensor, gt_labels: Tensor | None, weight: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As :meth:`row_terms`, for losses that compare rows with each other, and need the rows' weights for that."""
        return self.row_terms(student, teacher, gt_labels)

    def check_labels(self, gt_labels: Tensor | None, num_rows: int) -> None:
        """Raise ValueError if the loss needs labels and these are not ``(num_rows,)``."""

    def read_meaning(self, meaning: LogitMeaning) -> None:
        """Set what the loss needs to know about a head's logits; called once, before training."""

    def check_num_logits(self, num_logits: int) -> None:
        """Raise ValueError if the loss can't work on ``num_logits`` logits per row (used before training starts)."""

    def check_backend(self) -> KDSpec | None:
        """What the fused engines need, None for 'eager'; raise if the backend can't compute the loss.

        Raises:
            ValueError: the loss has no fused form.
            ImportError: 'triton' is asked for and not installed.
        """
        spec = self.kernel_spec() if self._described and self.backend != "eager" else None
        check_backend(type(self).__name__, self.backend, self.reduction, spec)
        return spec

    def components(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        gt_labels: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The parts of the loss by name, already weighted, and its statistics by name.

        Args:
            preds_S: student logits ``(N, C)``.
            preds_T: teacher logits ``(N, C)``; no gradient flows into them.
            weight: ``(N,)`` weight of each row.
            avg_factor: divides the sum over rows in place of N, a number or a tensor of one element; only for
                ``reduction='mean'``.
            gt_labels: ``(N,)`` int64 target class of each row, for the losses that need it.

        Returns:
            Losses: scalars (``(N,)`` for ``reduction='none'``), differentiable. Statistics: detached scalars, means
            over the rows. Zero rows give zeros that stay attached to the graph of ``preds_S``. Names of losses start
            with "loss", which those of statistics lack: mmengine tells them apart so in the log.

        Raises:
            ValueError: if shapes or ``avg_factor`` and ``reduction`` do not fit.
        """
        if avg_factor is not None and self.reduction != "mean":
            raise ValueError(f"{type(self).__name__}: avg_factor goes with reduction='mean', not {self.reduction!r}")
        if isinstance(avg_factor, Tensor):
            if avg_factor.numel() != 1:
                raise ValueError(f"{type(self).__name__}: avg_factor must be one number, got {tuple(avg_factor.shape)}")
            avg_factor = avg_factor.reshape(())  # some heads give (1,), and the loss would take that shape
        self._check_rows(preds_S, preds_T, weight)
        self.check_num_logits(preds_S.shape[1])
        self.check_labels(gt_labels, preds_S.shape[0])
        student, teacher = preds_S, preds_T.detach()
        if self.standardize:
            student, teacher = standardized(student), standardized(teacher)
        spec = self.check_backend()
        backend = choose(self.backend, student, teacher, weight, self.reduction, spec)
        if backend != "eager" and spec is not None:
            return self._fused(backend, spec, student, teacher, weight, avg_factor, gt_labels)
        # Autocast would compute some of the operations in half precision.
        with torch.autocast(student.device.type, enabled=False):
            if self.activation == "implicit_bg":
                student, teacher = append_background(student), append_background(teacher)
            terms, values = self.weighted_terms(student, teacher, gt_labels, weight)
            scale = self.loss_weight * self.tau**2
            losses = {k: self._reduce(scale * v, weight, avg_factor) for k, v in terms.items()}
            return losses, {k: _mean(v.detach(), weight) for k, v in values.items()}

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """The sum of the parts: a scalar, or ``(N,)`` for ``reduction='none'``. Arguments as in :meth:`components`."""
        losses, _ = self.components(preds_S, preds_T, weight, avg_factor)
        return torch.stack([*losses.values()]).sum(0)

    def _fused(
        self,
        backend: str,
        spec: KDSpec,
        student: Tensor,
        teacher: Tensor,
        weight: Tensor | None,
        avg_factor: Tensor | float | None,
        gt_labels: Tensor | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        divisor = self._divisor(student.shape[0], avg_factor)
        if isinstance(divisor, Tensor):
            divisor = divisor.to(torch.promote_types(student.dtype, torch.float32))
        scale = self.loss_weight * self.tau**2 / divisor
        losses, mass = logit_kd(student, teacher, spec, engine(backend), gt_labels, weight, scale)
        if spec.statistic is None:
            return losses, {}
        return losses, {spec.statistic: mass / _total_weight(student.shape[0], weight)}

    def _check_rows(self, student: Tensor, teacher: Tensor, weight: Tensor | None) -> None:
        name = type(self).__name__
        if student.dim() != 2 or student.shape != teacher.shape:
            raise ValueError(
                f"{name}: student and teacher logits must both be (N, C), one row per RoI, anchor or query, "
                f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        if weight is not None and weight.shape != student.shape[:1]:
            raise ValueError(f"{name}: weight must be (N,) = {tuple(student.shape[:1])}, got {tuple(weight.shape)}")

    def _reduce(self, rows: Tensor, weight: Tensor | None, avg_factor: Tensor | float | None) -> Tensor:
        if weight is not None:
            rows = rows * weight
        if self.reduction == "none":
            return rows
        return rows.sum() / self._divisor(rows.shape[0], avg_factor)

    def _divisor(self, num_rows: int, avg_factor: Tensor | float | None) -> Tensor | float:
        if self.reduction == "sum":
            return 1.0
        if avg_factor is None:
            return float(max(num_rows, 1))
        # As mmdet's losses do: a batch without positives has avg_factor 0 and a sum of 0.
        return avg_factor + torch.finfo(torch.float32).eps

    def extra_repr(self) -> str:
        shown = (f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return ", ".join(s for s in shown if not s.startswith("training="))


def _mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    return (rows if weight is None else rows * weight).sum() / _total_weight(rows.shape[0], weight)


def _total_weight(num_rows: int, weight: Tensor | None) -> Tensor | float:
    if weight is None:
        return float(max(num_rows, 1))
    return weight.sum().clamp(min=torch.finfo(torch.float32).eps)


def check_choice(owner: str, key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{owner}: {key} must be one of {', '.join(choices)}, got {value!r}")


def check_number(owner: str, key: str, value: object, least: float | None = None, above: float | None = None) -> None:
    """Raise ValueError unless ``value`` is a finite number, at least ``least`` and greater than ``above``."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    ok = ok and float("-inf") < value < float("inf")  # type: ignore[operator]
    ok = ok and (least is None or value >= least) and (above is None or value > above)  # type: ignore[operator]
    if not ok:
        bound = f" >= {least:g}" if least is not None else f" > {above:g}" if above is not None else ""
        raise ValueError(f"{owner}: {key} must be a finite number{bound}, got {value!r}")


def check_top_k(owner: str, top_k: object, share: bool = False) -> None:
    """Raise ValueError unless ``top_k`` is an int >= 1, or (with ``share``) a float between 0 and 1."""
    if share and isinstance(top_k, float) and 0.0 < top_k < 1.0:
        return
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        other = ", or a float between 0 and 1, a share of the mass" if share else ""
        raise ValueError(f"{owner}: top_k must be an int >= 1{other}, got {top_k!r}")


def check_tail(owner: str, top_k: int, num_logits: int) -> None:
    """Raise ValueError if a top-K set of ``top_k`` leaves no tail."""
    if top_k >= num_logits:
        raise ValueError(
            f"{owner}: top_k={top_k} leaves no tail category: the head has {num_logits} logits per row; "
            + (f"set top_k to {num_logits - 1} or less" if num_logits > 1 else "use KDLoss, which needs no tail")
        )
