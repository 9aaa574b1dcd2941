"""Report a pair's losses at the start of its training, and how much of the gradient is the distillation's."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rekd_det.analysis.pair_check.findings import Findings
from rekd_det.analysis.pair_check.pair_measure import LossShare, loss_shares
from rekd_det.models.algorithms.rekd_distill import ReKDDistill

#: a note is added if the distillation's share of the gradient is outside this range
_USUAL_SHARE = 0.01, 0.9


def report_losses(model: ReKDDistill, batch: Mapping, found: Findings) -> None:
    """Add each loss, its gradient's norm and share, and the statistics; judge what is unusual.

    Args:
        model: the pair, in train mode.
        batch: ``inputs`` and ``data_samples`` of one step.
        found: what is added to.
    """
    shares, statistics, layers = loss_shares(model, batch)
    found.section(f"Losses at the start (generated images; gradient on the student's {layers})")
    whole = sum(s.gradient for s in shares) or 1.0
    found.lines.append(f"{'':<28} {'loss':>10} {'gradient':>10} {'share':>7}")
    for share in shares:
        found.lines.append(
            f"{share.name:<28} {share.value:>10.4f} {share.gradient:>10.4f} {share.gradient / whole:>7.1%}"
        )
    for name, value in statistics.items():
        found.lines.append(f"{name:<28} {value:>10.4f}")
    for share in shares:
        if not math.isfinite(share.value):
            found.mistakes.append(
                f"{share.name} is {share.value} at the start: check the teacher's weights and the loss's options"
            )
    distill = [s for s in shares if s.name.startswith("distill.")]
    _judge_share(distill, whole, layers, len(distill) == len(shares), found)


def _judge_share(distill: list[LossShare], whole: float, layers: str, alone: bool, found: Findings) -> None:
    share = sum(s.gradient for s in distill) / whole
    idle = [s.name for s in distill if not s.gradient]
    least, most = _USUAL_SHARE
    if not share:
        found.mistakes.append(
            "the distillation has no gradient on the student: are alpha, beta or loss_weight of "
            "model.distiller.loss 0, or are teacher and student the same weights?"
        )
        return
    if idle:
        found.notes.append(
            f"{', '.join(idle)} has no gradient on the student's {layers}: is its weight 0? Logits that do not depend "
            f"on the {layers}, as of a mask transformer's first queries, have none either, nor has loss_ntid where K "
            "leaves a tail of one category"
        )
    if share < least or (share > most and not alone):
        largest = max(distill, key=lambda s: s.gradient).name
        found.notes.append(
            f"the distillation makes {share:.1%} of the gradient at the start, most of it {largest}: "
            f"{'raise' if share < least else 'lower'} its weight (loss_weight; ReKDLoss: alpha and beta) if that is "
            "not meant"
        )
