"""Which categories are in each other's top-K sets."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform
from torch import Tensor

from rekd_det.models.losses.functional import topk_index


class HeadMatrix:
    """How often category j is among the teacher's top-K of rows labelled i.

    Args:
        num_categories: categories of objects, the rows of the matrix.
        num_logits: its columns; one more than the categories if there is a background logit.
        top_k: K.
    """

    def __init__(self, num_categories: int, num_logits: int, top_k: int) -> None:
        self.top_k = top_k
        self.counts = np.zeros((num_categories, num_logits))
        self.rows = np.zeros(num_categories)

    def add(self, teacher: Tensor, labels: Tensor) -> None:
        """Count rows of objects: logits ``(N, C)`` and labels ``(N,)`` below ``num_categories``."""
        head = topk_index(teacher, self.top_k).numpy()
        label = labels.numpy()
        np.add.at(self.counts, (label[:, None], head), 1)
        np.add.at(self.rows, label, 1)

    @property
    def frequency(self) -> np.ndarray:
        """``(num_categories, num_logits)``: shares in [0, 1]; NaN in the rows of categories that no row has."""
        with np.errstate(invalid="ignore"):
            return np.where(self.rows[:, None] > 0, self.counts / self.rows[:, None], np.nan)


def cluster_order(frequency: np.ndarray) -> np.ndarray:
    """An order that puts categories next to each other if they are in each other's top-K sets.

    Average linkage over the distance ``1 - (f_ij + f_ji) / 2``, with optimally ordered leaves. Categories without rows
    come last.

    Args:
        frequency: ``(C, C)``, see :attr:`HeadMatrix.frequency`, without a background column.

    Returns:
        ``(C,)`` int indices.
    """
    seen = np.flatnonzero(~np.isnan(frequency).any(1))
    unseen = np.setdiff1d(np.arange(len(frequency)), seen)
    if len(seen) < 3:
        return np.concatenate([seen, unseen])
    f = frequency[np.ix_(seen, seen)]
    distance = np.clip(1.0 - (f + f.T) / 2, 0.0, 1.0)
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    order = leaves_list(optimal_leaf_ordering(linkage(condensed, "average"), condensed))
    return np.concatenate([seen[order], unseen])


def strongest_pairs(frequency: np.ndarray, count: int) -> list[tuple[int, int, float]]:
    """The pairs of categories (i, j, mean of both shares) that are most often in each other's top-K sets."""
    num = len(frequency)
    f = frequency[:, :num]
    mutual = (f + f.T) / 2
    i, j = np.triu_indices(num, 1)
    values = mutual[i, j]
    known = ~np.isnan(values)
    i, j, values = i[known], j[known], values[known]
    best = np.argsort(-values, kind="stable")[:count]
    return [(int(i[b]), int(j[b]), float(values[b])) for b in best]
