"""Top-K set and tail of a teacher over a data set: what ``tools/analysis/head_tail.py`` measures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from rekd_det.analysis.teacher.category_terms import CategoryTerms
from rekd_det.analysis.teacher.heads import HeadMatrix
from rekd_det.analysis.teacher.mass import MassStats, head_and_tail
from rekd_det.analysis.teacher.rows import Rows

MAX_K = 20
#: the rule of :meth:`HeadTail.suggest`: this share of the probability belongs in the top-K set
TARGET_MASS = 0.95
#: groups with fewer rows than this are not used
ENOUGH_ROWS = 100

#: the groups of rows, in the order in which they are shown
GROUPS = ("object, easy", "object, hard", "background, easy", "background, hard", "object", "background")
UNLABELLED = "all rows"


@dataclass(frozen=True)
class Suggestion:
    """A K, and the rows and the mass that it comes from."""

    top_k: int
    group: str
    mass: float
    reached: bool


@dataclass
class HeadTail:
    """Collects the rows of a data set.

    Args:
        names: the categories of objects.
        num_logits: logits per row, the background included where it has one.
        top_k: K of the matrix and of the comparison of easy and hard rows.
        activation: 'softmax' or 'sigmoid'.
        tau: temperature.
        judges: who decides what is hard: 'teacher', 'student'.
    """

    names: list[str]
    num_logits: int
    top_k: int
    activation: str
    tau: float
    judges: tuple[str, ...]
    stats: dict[tuple[str, str], MassStats] = field(init=False, default_factory=dict)
    matrix: HeadMatrix = field(init=False)
    terms: CategoryTerms | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.max_k = min(MAX_K, self.num_logits - 1)
        self.matrix = HeadMatrix(len(self.names), self.num_logits, self.top_k)
        if self.activation == "sigmoid":
            self.terms = CategoryTerms(self.names, self.top_k, self.tau)

    def add(self, rows: Rows) -> None:
        """Count a batch's rows of one head."""
        head, tail = head_and_tail(rows.teacher, self.max_k, self.activation, self.tau)
        if rows.labels is None:
            for judge in self.judges:
                self._group(judge, UNLABELLED).add(head, tail)
            return
        is_object = rows.is_object
        assert is_object is not None
        if self.terms is not None:
            self.terms.add(rows.teacher, rows.student, rows.labels)
        rank = _label_rank(rows)
        self.matrix.add(rows.teacher[is_object], rows.labels[is_object])
        for judge in self.judges:
            hard = rows.hard_for(rows.teacher if judge == "teacher" else rows.student)
            for group in GROUPS:
                kind, _, difficulty = group.partition(", ")
                mask = is_object if kind == "object" else ~is_object
                if difficulty:
                    mask = mask & (hard if difficulty == "hard" else ~hard)
                self._group(judge, group).add(head[mask], tail[mask], rank[mask] if kind == "object" else None)

    def groups(self, judge: str) -> dict[str, MassStats]:
        """The groups that have rows, by name, in order."""
        found = {g: self.stats.get((judge, g)) for g in (*GROUPS, UNLABELLED)}
        return {g: s for g, s in found.items() if s is not None and s.rows}

    def suggest(self) -> Suggestion | None:
        """The smallest K >= 2 whose top-K set holds on average ``TARGET_MASS`` of the probability on hard objects.

        Only hard rows count, because any K is enough for easy ones. If there are too few of them, all rows of objects
        count, and without labels all rows. With K = 1 there are no relations inside the top-K set. The rule is a
        starting point for a search: nothing says that it gives the best AP. None without rows.
        """
        groups = self.groups("teacher")
        wanted = [g for g in ("object, hard", "object", UNLABELLED) if g in groups]
        for group in wanted:
            if groups[group].rows < ENOUGH_ROWS and group != wanted[-1]:
                continue
            mass = groups[group].mean_head
            enough = np.flatnonzero(mass >= TARGET_MASS)
            k = max(2, int(enough[0]) + 1) if len(enough) else self.max_k
            return Suggestion(min(k, self.max_k), group, float(mass[min(k, self.max_k) - 1]), bool(len(enough)))
        return None

    def _group(self, judge: str, group: str) -> MassStats:
        return self.stats.setdefault((judge, group), MassStats(self.max_k))


def _label_rank(rows: Rows) -> torch.Tensor:
    """How many categories the teacher puts before the label, ``(N,)``; all of them for a label without a logit."""
    assert rows.labels is not None
    count = rows.teacher.shape[1]
    label = rows.labels.clamp(max=count - 1)[:, None]
    own = rows.teacher.gather(1, label)
    # A tie goes to the lowest index, as in the losses.
    index = torch.arange(count)
    before = (rows.teacher > own) | ((rows.teacher == own) & (index < label))
    return before.sum(1).masked_fill(rows.labels >= count, count)
