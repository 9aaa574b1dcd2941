"""For comparison: classical KD, DKD and GDKD, from the same terms as ReKD."""

from __future__ import annotations

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from rekd_det.models.losses.base import LogitLoss, check_number, check_tail, check_top_k
from rekd_det.models.losses.kernels import KDSpec, Part


@MODELS.register_module()
class KDLoss(LogitLoss):
    """Classical knowledge distillation (Hinton et al., 2015): ``KL(teacher || student) * tau**2`` per row.

    With ``activation='sigmoid'``: the sum over classes of the Bernoulli KLs. Options as in :class:`LogitLoss`.
    """

    def kernel_spec(self) -> KDSpec:
        # Without a top-K set the tail is the whole row.
        return KDSpec((Part("loss_kd", tail=1.0),), "none", 0, self.activation, self.tau, statistic=None, tail_sum=True)


# MMRazor has a DKDLoss of its own, which its configs mean by this name; see losses.OWN_NAMES.
@MODELS.register_module("LogitDKDLoss")
class DKDLoss(LogitLoss):
    """Decoupled KD (Zhao et al., CVPR 2022): the top-K set is the target class alone.

    Args:
        alpha: weight of the target-class part (TCKD).
        beta: weight of the non-target part (NCKD).
        activation: 'softmax' or 'implicit_bg'.
        tau, reduction, loss_weight, backend, standardize: see :class:`LogitLoss`.

    A row whose label is not one of its classes (an ignored row, -1) counts 0.
    """

    activations = ("softmax", "implicit_bg")
    needs_labels = True

    def __init__(self, alpha: float = 1.0, beta: float = 1.0, reduction: str = "mean", **kwargs) -> None:
        # 'batchmean' is the word of MMRazor's DKDLoss, whose configs work here as well.
        super().__init__(reduction="mean" if reduction == "batchmean" else reduction, **kwargs)
        check_number("DKDLoss", "alpha", alpha, least=0.0)
        check_number("DKDLoss", "beta", beta, least=0.0)
        self.alpha, self.beta = float(alpha), float(beta)

    def check_num_logits(self, num_logits: int) -> None:
        if num_logits == 1 and self.activation == "softmax":
            raise ValueError(
                "DKDLoss: the head has 1 logit per row, so there is no category beside the target; use "
                "activation='implicit_bg', whose background is the second one, or KDLoss"
            )

    def check_labels(self, gt_labels: Tensor | None, num_rows: int) -> None:
        if gt_labels is None or gt_labels.shape != (num_rows,):
            got = None if gt_labels is None else tuple(gt_labels.shape)
            raise ValueError(f"DKDLoss: gt_labels must be (N,) = ({num_rows},) class indices, got {got}")

    def kernel_spec(self) -> KDSpec:
        parts = (Part("loss_tckd", mass=self.alpha), Part("loss_nckd", tail=self.beta))
        return KDSpec(parts, "target", 1, self.activation, self.tau, statistic="target_mass")

    def forward(  # type: ignore[override]
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        gt_labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """As :meth:`LogitLoss.forward`, with ``gt_labels`` ``(N,)`` int64."""
        losses, _ = self.components(preds_S, preds_T, weight, avg_factor, gt_labels)
        return torch.stack([*losses.values()]).sum(0)


@MODELS.register_module()
class GDKDLoss(LogitLoss):
    """Generalised DKD (Zheng and Yang, ECCV 2024): three free weights on the terms of the top-K identity.

    Args:
        top_k: K of the teacher's top-K.
        mass_weight: weight of ``KL_mass``.
        head_weight: weight of ``KL_top``.
        tail_weight: weight of ``KL_tail``. The defaults of the three are those of the authors' detection code.
        activation: 'softmax' or 'implicit_bg'.
        tau, reduction, loss_weight, backend, standardize: see :class:`LogitLoss`.
    """

    activations = ("softmax", "implicit_bg")

    def __init__(
        self,
        top_k: int = 5,
        mass_weight: float = 1.0,
        head_weight: float = 0.125,
        tail_weight: float = 0.25,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        check_top_k("GDKDLoss", top_k)
        self.top_k = top_k
        check_number("GDKDLoss", "mass_weight", mass_weight, least=0.0)
        check_number("GDKDLoss", "head_weight", head_weight, least=0.0)
        check_number("GDKDLoss", "tail_weight", tail_weight, least=0.0)
        self.mass_weight, self.head_weight = float(mass_weight), float(head_weight)
        self.tail_weight = float(tail_weight)

    def check_num_logits(self, num_logits: int) -> None:
        check_tail("GDKDLoss", self.top_k, num_logits + (self.activation == "implicit_bg"))

    def kernel_spec(self) -> KDSpec:
        parts = (
            Part("loss_mass", mass=self.mass_weight),
            Part("loss_head", top=self.head_weight),
            Part("loss_tail", tail=self.tail_weight),
        )
        return KDSpec(parts, "teacher", self.top_k, self.activation, self.tau)
