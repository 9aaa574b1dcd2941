"""The rows that distillation would compare, and which of them are hard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rekd_det.models.losses.functional import append_background
from rekd_det.structures.aligned_logits import AlignedLogits

#: background rows sampled per image; a dense head has a hundred thousand similar ones
MAX_BACKGROUND = 1024


@dataclass
class Rows:
    """Rows of a batch that count in the student's classification loss, the background's logit behind all others.

    Args:
        teacher: ``(N, C)`` logits of what the loss compares, the implicit background included where there is one.
        student: the same of the student.
        labels: ``(N,)`` int64, ``num_categories`` for the background; None where a head has no labels.
        num_categories: the categories of objects; C may be one more.
        activation: 'softmax' or 'sigmoid'.
    """

    teacher: Tensor
    student: Tensor
    labels: Tensor | None
    num_categories: int
    activation: str

    @property
    def is_object(self) -> Tensor | None:
        """Which rows have an object's label, ``(N,)`` bool; None without labels."""
        if self.labels is None:
            return None
        return self.labels < self.num_categories

    def hard_for(self, logits: Tensor) -> Tensor:
        """The rows that a judge gets wrong, ``(N,)`` bool: those whose label is not its most probable category.

        Where the rows have a logit for the background, it competes. Where they have none (sigmoid heads), a judge is
        wrong about a background row if it gives any category a probability above 0.5.

        Args:
            logits: ``(N, C)`` of the judge: ``teacher`` or ``student``.
        """
        assert self.labels is not None and self.is_object is not None
        best, top = logits.max(1)
        wrong = top != self.labels
        return wrong if logits.shape[1] > self.num_categories else torch.where(self.is_object, wrong, best > 0)


def rows_of(model: Any, batch: dict) -> Iterator[Rows]:
    """One pass of student and teacher over a batch, and the rows of each head of the student; nothing is trained.

    Args:
        model: a :class:`rekd_det.models.algorithms.ReKDDistill`, see :func:`rekd_det.analysis.utils.pair.build_pair`.
        batch: a preprocessed batch.
    """
    for entry in aligned_logits(model, batch):
        if len(entry.student):
            yield _rows(entry, model.distiller.loss.activation, len(batch["data_samples"]))


def aligned_logits(model: Any, batch: dict) -> list[AlignedLogits]:
    """What the distillation would compare in a batch, head by head; arguments as in :func:`rows_of`."""
    inputs, samples = batch["inputs"], batch["data_samples"]
    distiller = model.distiller
    with torch.no_grad(), distiller.step():
        model.student(inputs, samples, mode="loss")
        feats = distiller.extract_teacher_feat(model.teacher, model._teacher_input(inputs, samples))
        return distiller.align(feats, samples)


def _rows(entry: AlignedLogits, activation: str, images: int) -> Rows:
    keep = torch.ones(len(entry.student), dtype=torch.bool, device=entry.student.device)
    if entry.weight is not None:
        keep &= entry.weight > 0
    is_object = entry.is_object
    if entry.labels is not None and is_object is not None:
        keep &= entry.labels >= 0  # YOLOX's mark for rows without an object
        keep &= _thin_background(keep & ~is_object, images * MAX_BACKGROUND)
    teacher, student = (x.detach()[keep].float().cpu() for x in (entry.teacher, entry.student))
    meaning = entry.meaning.read_as(activation, teacher.shape[1])
    if activation == "implicit_bg":
        teacher, student = append_background(teacher), append_background(student)
    labels = None if entry.labels is None else entry.labels[keep].cpu()
    categories = meaning.num_categories(teacher.shape[1])
    if meaning.background is not None and meaning.background < categories:
        teacher, student, labels = _background_last(meaning.background, teacher, student, labels)
    return Rows(teacher, student, labels, categories, meaning.activation)


def _background_last(
    background: int, teacher: Tensor, student: Tensor, labels: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    order = torch.arange(teacher.shape[1])
    order = torch.cat([order[order != background], order[background : background + 1]])
    if labels is not None:
        labels = order.argsort()[labels]
    return teacher[:, order], student[:, order], labels


def _thin_background(background: Tensor, most: int) -> Tensor:
    """All rows of objects and at most ``most`` random background rows: a mask ``(N,)``."""
    index = background.nonzero().flatten()
    kept = torch.ones_like(background)
    if len(index) > most:
        dropped = torch.randperm(len(index))[most:].to(index.device)
        kept[index[dropped]] = False
    return kept
