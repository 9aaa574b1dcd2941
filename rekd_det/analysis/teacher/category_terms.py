"""The parts of a sigmoid head's KD, by category: the coupling A, TISD and NTID."""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.models.losses.functional import sigmoid_terms, some_present, top_set

#: of the table
HEADER = ["category", "rows", "mean A", "median A", "TISD", "NTID", "A x NTID", "NTID's share of KD"]
BACKGROUND = "background"


class CategoryTerms:
    """Collects rows of a sigmoid head by their label.

    For each row: ``A``, the teacher's probability that some category of the tail is present, by which KD multiplies
    NTID; TISD and NTID of :class:`rekd_det.models.losses.ReKDLoss` with ``tisd='joint'``, without alpha, beta and
    ``tau**2``. ``TISD + A * NTID`` is KD.

    Args:
        names: the categories of objects.
        top_k: K.
        tau: temperature.
    """

    def __init__(self, names: list[str], top_k: int, tau: float) -> None:
        self.names, self.top_k, self.tau = names, top_k, tau
        self._values: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, teacher: Tensor, student: Tensor, labels: Tensor) -> None:
        """Count rows: logits ``(N, C)``, and labels ``(N,)`` of which those from C on are the background's."""
        teacher, student = teacher.double(), student.double()
        top = top_set(teacher, self.top_k, None, self.tau, sigmoid=True)
        terms = sigmoid_terms(student, teacher, top, self.tau)
        a = some_present(teacher / self.tau, ~top)[0].sigmoid()
        self._values.append(torch.stack([a, terms.kl_mass + terms.kl_top, terms.kl_tail], 1).float())
        self._labels.append(labels.clamp(max=len(self.names)))

    def table(self) -> list[list[str]]:
        """A line for each category that has rows, and one for the background, see :data:`HEADER`; means over rows."""
        if not self._labels:
            return []
        values, labels = torch.cat(self._values).double(), torch.cat(self._labels)
        lines = []
        for index, name in enumerate([*self.names, BACKGROUND]):
            a, tisd, ntid = values[labels == index].unbind(1)
            if not len(a):
                continue
            coupled = (a * ntid).mean()
            numbers = (a.mean(), a.median(), tisd.mean(), ntid.mean(), coupled)
            share = coupled / (coupled + tisd.mean()).clamp(min=1e-30)
            lines.append([name, str(len(a)), *(f"{float(x):.3g}" for x in numbers), f"{float(share):.3f}"])
        return lines
