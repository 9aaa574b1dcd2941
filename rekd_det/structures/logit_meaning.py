"""What classification logits mean: defined by the head's adapter, used by losses, row weighting and analyses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HEAD_ACTIVATIONS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class LogitMeaning:
    """How a head's ``C`` logits per row become probabilities.

    Args:
        activation: 'softmax' over the C logits, or 'sigmoid': each category by itself.
        background: index of the background's logit (softmax only), or None where all C logits are categories of
            objects. In mmdet it is the last one, but the first one in CrowdDet.
        conditional: whether the head has a separate objectness (YOLOX, YOLOv3), so that a logit means "this category,
            given that there is an object".

    Raises:
        ValueError: for another activation, or a background without a softmax.
    """

    activation: str
    background: int | None = None
    conditional: bool = False

    def __post_init__(self) -> None:
        if self.activation not in HEAD_ACTIVATIONS:
            raise ValueError(
                f"LogitMeaning: activation must be one of {', '.join(HEAD_ACTIVATIONS)}, got {self.activation!r}"
            )
        if self.background is not None and (self.activation != "softmax" or self.background < 0):
            raise ValueError(
                "LogitMeaning: background is the index >= 0 of a logit in a softmax; with sigmoids a row is "
                f"background where no category is present. Got activation={self.activation!r}, "
                f"background={self.background}"
            )

    @classmethod
    def usual(cls, activation: str, num_logits: int) -> LogitMeaning:
        """What MMDetection's heads usually mean: a softmax has its background last, sigmoids have none."""
        return cls(activation, num_logits - 1 if activation == "softmax" else None)

    def num_categories(self, num_logits: int) -> int:
        """How many of ``num_logits`` logits are categories of objects."""
        return num_logits - (self.background is not None)

    def is_object(self, labels: Tensor, num_logits: int) -> Tensor:
        """Which of the labels ``(N,)`` are categories of objects: bool ``(N,)``; the background and -1 are not."""
        found = (labels >= 0) & (labels < num_logits)
        return found if self.background is None else found & (labels != self.background)

    def categories(self, logits: Tensor) -> Tensor:
        """The columns of ``(N, C)`` that belong to categories of objects, in order."""
        if self.background is None:
            return logits
        if self.background == logits.shape[1] - 1:
            return logits[:, :-1]
        return torch.cat([logits[:, : self.background], logits[:, self.background + 1 :]], dim=1)

    def object_score(self, logits: Tensor) -> Tensor:
        """The probability ``(N,)`` of an object in each row, in fp32 or better.

        With a softmax all but the background's; with sigmoids the largest category's.

        Raises:
            ValueError: if the logits do not give it, see :meth:`why_no_object_score`.
        """
        reason = self.why_no_object_score()
        if reason:
            raise ValueError(f"these logits give no probability of an object: {reason}")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.activation == "sigmoid":
            return logits.amax(1).sigmoid()
        return self.categories(logits.softmax(1)).sum(1)  # not 1 - background's, which loses precision near 1

    def why_no_object_score(self) -> str:
        """Why the logits do not give the probability of an object; '' if they do."""
        if self.conditional:
            return "the head has a separate objectness, so its scores are valid only if there is an object"
        if self.activation == "softmax" and self.background is None:
            return "its softmax has no background, so every row holds an object with probability 1"
        return ""

    def read_as(self, activation: str, num_logits: int) -> LogitMeaning:
        """What the logits mean to a loss that reads them its own way.

        Args:
            activation: the loss's: 'softmax', 'sigmoid', or 'implicit_bg', for which a background logit of 0 is put
                behind the ``num_logits`` logits.
            num_logits: C.
        """
        if activation == "implicit_bg":
            return LogitMeaning("softmax", num_logits, self.conditional)
        return self if activation == self.activation else LogitMeaning(activation, None, self.conditional)
