"""How far a trained student agrees with its teacher where the teacher is confident."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rekd_det.analysis.teacher.rows import aligned_logits
from rekd_det.models.losses import KDLoss
from rekd_det.models.losses.functional import append_background
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning


def sure_rows(model: Any, batch: dict, least: float) -> Iterator[tuple[Tensor, Tensor, LogitMeaning]]:
    """The rows in which the teacher gives a category of objects at least a probability, whatever their labels.

    The rows of most dense heads are the same for every student. An R-CNN's are its own proposals, YOLOX's those that
    its own assigner gives to objects.

    Args:
        model: a :class:`rekd_det.models.algorithms.ReKDDistill`, see :func:`rekd_det.analysis.utils.pair.build_pair`.
        batch: a preprocessed batch.
        least: the probability.

    Yields:
        For each head ``(N, C)`` logits of the student and the teacher, and what they mean to the loss.
    """
    for entry in aligned_logits(model, batch):
        yield _sure(entry, model.distiller.loss.activation, least)


def _sure(entry: AlignedLogits, activation: str, least: float) -> tuple[Tensor, Tensor, LogitMeaning]:
    student, teacher = entry.student.detach().float(), entry.teacher.detach().float()
    meaning = entry.meaning.read_as(activation, student.shape[1])
    if activation == "implicit_bg":
        student, teacher = append_background(student), append_background(teacher)
    probability = teacher.sigmoid() if meaning.activation == "sigmoid" else teacher.softmax(1)
    chosen = meaning.categories(probability).amax(1) >= least
    return student[chosen].cpu(), teacher[chosen].cpu(), meaning


class Agreement:
    """Sums over rows.

    Args:
        top_k: K of the top-K sets that are compared.
    """

    def __init__(self, top_k: int) -> None:
        self.top_k, self.rows = top_k, 0
        self._sums = torch.zeros(3, dtype=torch.float64)

    def add(self, student: Tensor, teacher: Tensor, meaning: LogitMeaning) -> None:
        """Count ``(N, C)`` rows; the arguments are what :func:`sure_rows` yields."""
        k = min(self.top_k, meaning.num_categories(student.shape[1]))
        heads = [meaning.categories(x).topk(k, 1).indices for x in (student, teacher)]
        first = heads[0][:, 0] == heads[1][:, 0]
        shared = (heads[0][:, :, None] == heads[1][:, None, :]).any(2).double().mean(1)
        kl = KDLoss(activation=meaning.activation, reduction="none")(student, teacher)
        self._sums += torch.stack([x.double().sum() for x in (first, shared, kl)])
        self.rows += len(student)

    def result(self) -> dict[str, float]:
        """``top1``: share of rows with the same first category; ``head``: share of the teacher's K categories that are
        among the student's K; ``kl``: mean KL divergence of a row in nats (a Bernoulli's for each category of a sigmoid
        head, summed)."""
        return dict(zip(("top1", "head", "kl"), (self._sums / max(self.rows, 1)).tolist(), strict=True))
