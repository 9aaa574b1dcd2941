"""Top-1 agreement, by hand."""

import torch

from rekd_det.models.distillers import agreement
from rekd_det.models.distillers.agreement import top1_agreement
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning


def one_hot(winners: list[int], num: int = 4) -> torch.Tensor:
    return torch.eye(num)[winners]


def test_softmax_rows_count_by_weight_background_included():
    entry = AlignedLogits(
        student=one_hot([0, 1, 3, 2]),
        teacher=one_hot([0, 2, 3, 2]),
        labels=torch.tensor([0, 1, 3, 3]),
        weight=torch.tensor([1.0, 2.0, 1.0, 0.0]),
    )
    assert top1_agreement(entry) == 0.5  # (1 + 1) / (1 + 2 + 1)
    entry.weight = None
    assert top1_agreement(entry) == 0.75


def test_sigmoid_rows_count_where_an_object_is():
    entry = AlignedLogits(
        student=one_hot([0, 1, 3, 2]),
        teacher=one_hot([0, 2, 3, 1]),
        labels=torch.tensor([0, 1, 4, -1]),
        meaning=LogitMeaning("sigmoid"),
    )
    assert entry.is_object.tolist() == [True, True, False, False]
    assert top1_agreement(entry) == 0.5


def test_of_many_rows_the_objects_are_taken(monkeypatch):
    monkeypatch.setattr(agreement, "MAX_ROWS", 3)
    labels = torch.full((100,), 4)
    labels[[17, 90]] = 1
    student, teacher = one_hot([0] * 100), one_hot([3] * 100)
    teacher[17] = student[17]
    entry = AlignedLogits(student, teacher, labels, meaning=LogitMeaning("sigmoid"))
    assert top1_agreement(entry) == 0.5
    # A softmax head of as many rows as well: its background rows would drown them.
    assert top1_agreement(AlignedLogits(student, teacher, labels - 1)) == 0.5
    assert top1_agreement(AlignedLogits(student, teacher)) is None


def test_no_row_counts():
    entry = AlignedLogits(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert top1_agreement(entry) == 0
    entry = AlignedLogits(one_hot([1]), one_hot([1]), torch.tensor([4]), meaning=LogitMeaning("sigmoid"))
    assert top1_agreement(entry) == 0


def test_it_is_no_part_of_the_graph():
    entry = AlignedLogits(one_hot([1]).requires_grad_(), one_hot([1]))
    assert not top1_agreement(entry).requires_grad
