"""The classification loss of BCKD and CrossKD, from their formulas."""

from __future__ import annotations

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from rekd_det.models.losses.base import LogitLoss, check_number
from rekd_det.models.losses.functional import scaled


@MODELS.register_module()
class BCKDLoss(LogitLoss):
    """``sum_c BCE(s_c, p_c) * |q_c - p_c| ** gamma``, with ``p = sigmoid(teacher)`` and ``q = sigmoid(student)``.

    The binary cross entropy to the teacher's probability, times how far the two are apart; the gradient flows through
    that factor as well. It is the quality focal loss with the teacher's probability as the quality: BCKD (Yang et al.,
    ICCV 2023) and CrossKD (Wang et al., CVPR 2024; on the cross-head's logits there) distil sigmoid heads by it.

    Args:
        gamma: exponent of the factor, >= 1; the authors' is 1.
        tau, reduction, loss_weight: see :class:`LogitLoss`; the authors' tau is 1.
        activation: 'sigmoid' only.
        backend: 'auto' or 'eager'.
    """

    activations = ("sigmoid",)

    def __init__(self, gamma: float = 1.0, activation: str = "sigmoid", **kwargs) -> None:
        super().__init__(activation=activation, **kwargs)
        check_number("BCKDLoss", "gamma", gamma, least=1.0)
        self.gamma = float(gamma)

    def row_terms(
        self, student: Tensor, teacher: Tensor, gt_labels: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        s, p = scaled(student, self.tau), scaled(teacher, self.tau).sigmoid()
        factor = (s.sigmoid() - p).abs() ** self.gamma
        return {"loss_bckd": (F.binary_cross_entropy_with_logits(s, p, reduction="none") * factor).sum(1)}, {}
