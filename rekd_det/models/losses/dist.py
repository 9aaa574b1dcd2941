"""DIST: relations between probabilities, by Pearson's correlation."""

from __future__ import annotations

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from rekd_det.models.losses.base import LogitLoss, check_number
from rekd_det.models.losses.functional import scaled

# Of a sum of squares that is compared with 1 at most: a constant row or column has no correlation, and no gradient.
_TINY = 1e-16


# MMRazor has a DISTLoss of its own, on unweighted rows, which its configs mean by this name; see losses.OWN_NAMES.
@MODELS.register_module("LogitDISTLoss")
class DISTLoss(LogitLoss):
    """DIST (Huang et al., NeurIPS 2022): ``1 - Pearson correlation`` of student's and teacher's probabilities.

    *Inter*: between the categories of a row. *Intra*: between the rows of a category, mean over the categories; rows
    count in it by their weight. Where the teacher's probabilities are all equal there is no relation, and it is 0.

    Args:
        inter_loss_weight: weight of the inter-class part.
        intra_loss_weight: weight of the intra-class part.
        tau, reduction, loss_weight: see :class:`LogitLoss`.
        activation: what makes the probabilities: 'softmax' (the authors'), 'sigmoid' or 'implicit_bg'.
        backend: 'auto' or 'eager'.
    """

    def __init__(self, inter_loss_weight: float = 1.0, intra_loss_weight: float = 1.0, **kwargs) -> None:
        super().__init__(**kwargs)
        check_number("DISTLoss", "inter_loss_weight", inter_loss_weight, least=0.0)
        check_number("DISTLoss", "intra_loss_weight", intra_loss_weight, least=0.0)
        self.inter_loss_weight, self.intra_loss_weight = float(inter_loss_weight), float(intra_loss_weight)

    def check_num_logits(self, num_logits: int) -> None:
        if num_logits + (self.activation == "implicit_bg") < 2:
            raise ValueError("DISTLoss: relations between categories need two of them; the head has one logit per row")

    def weighted_terms(
        self, student: Tensor, teacher: Tensor, gt_labels: Tensor | None, weight: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        q, p = (
            x.sigmoid() if self.activation == "sigmoid" else x.softmax(1)
            for x in (scaled(student, self.tau), scaled(teacher, self.tau))
        )
        share = torch.ones_like(q[:, :1]) if weight is None else weight.to(q.dtype)[:, None]
        share = share / share.sum().clamp(min=torch.finfo(q.dtype).tiny)
        inter = _uncorrelated(q, p, torch.full_like(q[:1], 1 / q.shape[1]), 1)
        intra = _uncorrelated(q, p, share, 0).mean()
        return {
            "loss_inter": self.inter_loss_weight * inter,
            "loss_intra": self.intra_loss_weight * intra.expand(len(q)),
        }, {}


def _uncorrelated(q: Tensor, p: Tensor, share: Tensor, dim: int) -> Tensor:
    """``1 - correlation`` along a dimension, whose entries count by their ``share``."""
    q, p = (x - (x * share).sum(dim, keepdim=True) for x in (q, p))
    size_q, size_p = ((x * x * share).sum(dim) for x in (q, p))
    correlation = (q * p * share).sum(dim) / ((size_q + _TINY) * (size_p + _TINY)).sqrt()
    return (1 - correlation).masked_fill(size_p <= _TINY, 0.0)
