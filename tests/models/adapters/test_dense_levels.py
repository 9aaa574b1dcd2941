"""Dense heads whose loss sees one level after the other: their rows are distilled so, without a copy of all of them."""

import copy

import pytest
import torch
from one_step import distillation, run_step
from tiny import total
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from zoo_pairs import perturbed_pair, zoo_pair

from rekd_det.models.distillers.agreement import top1_agreement
from rekd_det.models.distillers.row_weighting import row_weight
from rekd_det.models.losses import KDLoss
from rekd_det.structures.aligned_logits import AlignedLevels, AlignedLogits

HEADS = dict(
    retina="retinanet/retinanet_r50_fpn_1x_coco.py",
    gfl="gfl/gfl_r50_fpn_1x_coco.py",
    atss="atss/atss_r50_fpn_1x_coco.py",
    rtmdet="rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
)


class Sizes(TorchDispatchMode):
    """The numbers of elements of every tensor that an operation gives, views left out."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.seen += [(x.numel(), str(func)) for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        return result


@pytest.fixture(params=HEADS, scope="module")
def pair(request):
    model, batch = zoo_pair(HEADS[request.param], (96, 96))
    return perturbed_pair(model), batch


@pytest.mark.parametrize("row_weighting", ["all", "object", "teacher"])
def test_values_statistics_and_gradients_are_those_of_the_whole(pair, row_weighting):
    model, batch = pair
    distiller = model.distiller
    (entry,) = run_step(model, batch).rows
    assert isinstance(entry, AlignedLevels)
    assert len(entry.levels()) > 2
    whole = AlignedLogits(
        torch.cat([e.student.detach() for e in entry.levels()]).requires_grad_(),
        torch.cat([e.teacher for e in entry.levels()]),
        entry.labels,
        entry.weight,
        entry.avg_factor,
        entry.meaning,
    )
    students = [e.student.detach().requires_grad_() for e in entry.levels()]
    levels = AlignedLevels(
        students, [e.teacher for e in entry.levels()], entry.labels, entry.weight, entry.avg_factor, entry.meaning
    )
    got, want = (distiller._components(distiller.loss, row_weighting, e) for e in (levels, whole))
    assert row_weight(levels, row_weighting).equal(row_weight(whole, row_weighting))
    for a, b in zip(got, want, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name])
    total(got[0]).backward()
    total(want[0]).backward()
    torch.testing.assert_close(torch.cat([s.grad for s in students]), whole.student.grad)
    assert top1_agreement(levels).equal(top1_agreement(whole))


def test_no_tensor_of_all_rows_is_made(pair, monkeypatch):
    model, batch = pair
    (entry,) = run_step(model, batch).rows
    elements = entry.num_rows * entry.num_logits
    sizes = Sizes()
    distil = model.distiller.compute_distill_losses

    def watched(*args):
        with sizes:
            return distil(*args)

    # The student's own forward has boxes of as many elements: they are not looked at.
    monkeypatch.setattr(model.distiller, "compute_distill_losses", watched)
    losses = distillation(model(**copy.deepcopy(batch), mode="loss"))
    with sizes:
        total(losses).backward()
    model.zero_grad()
    largest = max(e.student.numel() for e in entry.levels())
    assert largest in {n for n, _ in sizes.seen}, "the levels' own tensors are not seen: the test is blind"
    assert [op for n, op in sizes.seen if n == elements] == []


def test_where_the_rows_are_divided_by_their_number_all_count(pair):
    model, _ = pair
    s, t = (torch.randn(9, 5, generator=torch.Generator().manual_seed(i)) for i in range(2))
    meaning = model.distiller.adapter.meaning
    levels = AlignedLevels(s.split([6, 0, 3]), t.split([6, 0, 3]), None, None, None, meaning)
    whole = AlignedLogits(s, t, meaning=meaning)
    got, want = (model.distiller._components(model.distiller.loss, "all", e) for e in (levels, whole))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


class Centred(KDLoss):
    """A loss of somebody else that compares each row with the mean of all."""

    def weighted_terms(self, student, teacher, gt_labels, weight):
        student, teacher = student - student.mean(0), teacher - teacher.mean(0)
        return super().weighted_terms(student, teacher, gt_labels, weight)


def test_a_loss_that_compares_rows_gets_all_of_them(pair):
    model, batch = pair
    (entry,) = run_step(model, batch).rows
    whole = AlignedLogits(
        entry.student, entry.teacher, entry.labels, entry.weight, entry.avg_factor, meaning=entry.meaning
    )
    loss = Centred(activation="sigmoid")
    got, want = (model.distiller._components(loss, "all", e)[0] for e in (entry, whole))
    torch.testing.assert_close(got, want)


def test_rows_picked_of_levels_are_those_of_the_whole():
    s, t = torch.randn(9, 5), torch.randn(9, 5)
    levels = AlignedLevels(s.split([4, 0, 5]), t.split([4, 0, 5]), None, None, None, None)
    rows = torch.tensor([8, 0, 3, 4, 4])
    assert all(a.equal(b) for a, b in zip(levels.pick(rows), (s[rows], t[rows]), strict=True))
    assert levels.student.equal(s)
    assert levels.teacher.equal(t)
    assert (levels.num_rows, levels.num_logits) == (9, 5)
