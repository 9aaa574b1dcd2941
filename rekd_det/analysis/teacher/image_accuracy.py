"""Where a student classifier is right: inside its teacher's top-K set, and on easy and hard images."""

from __future__ import annotations

import torch
from torch import Tensor

from rekd_det.models.losses.functional import topk_index

#: equal parts of the images, in falling order of the teacher's confidence
PARTS = 4


class ImageAccuracy:
    """Collects the images of a data set.

    Args:
        top_k: K of the teacher's set.
    """

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self._seen: list[Tensor] = []

    def add(self, student: Tensor, teacher: Tensor, labels: Tensor) -> None:
        """Count images: ``(B, C)`` logits of both, and ``(B,)`` labels."""
        index = topk_index(teacher, self.top_k)
        inside = (index == labels[:, None]).any(1)
        # The student may choose among the teacher's K alone.
        choice = index.gather(1, student.gather(1, index).argmax(1, keepdim=True))[:, 0]
        mass = teacher.double().softmax(1).gather(1, index).sum(1)
        rows = (student.argmax(1) == labels, inside, choice == labels, teacher.argmax(1) == labels, mass)
        self._seen.append(torch.stack([x.double() for x in rows], 1).cpu())

    def result(self) -> dict[str, float]:
        """Shares of images in [0, 1].

        ``top1``: the student is right. ``teacher``: the teacher is. ``label_in_set``: the label is in the teacher's
        set; ``top1_in_set``: of these, the student puts it before the K - 1 others. ``easy`` .. ``hard``: the student
        is right, by fourths of the images in falling order of P, the teacher's probability of its set.

        Raises:
            ValueError: if there is no image.
        """
        if not self._seen:
            raise ValueError("no image was counted")
        right, inside, chosen, teacher, mass = torch.cat(self._seen).unbind(1)
        parts = right[mass.argsort(descending=True, stable=True)].tensor_split(PARTS)
        found = dict(top1=right.mean(), teacher=teacher.mean(), label_in_set=inside.mean())
        found["top1_in_set"] = (chosen * inside).sum() / inside.sum().clamp(min=1)
        names = ("easy", *(f"part{i}" for i in range(2, PARTS)), "hard")
        found.update({name: part.mean() for name, part in zip(names, parts, strict=True)})
        return {name: float(value) for name, value in found.items()}
