"""Which rows count in the distillation."""

import pytest
import torch
from tiny import batch, build, build_pair, perturb, tiny_rcnn

from rekd_det.models.distillers.row_weighting import row_weight
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning

SOFTMAX = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 5.0], [1.0, 3.0, 0.0]])


def rows_of(**changes) -> AlignedLogits:
    given = dict(labels=torch.tensor([0, 2, 1]), weight=torch.tensor([1.0, 1.0, 0.5]))
    return AlignedLogits(SOFTMAX + 1, SOFTMAX, **{**given, **changes})


def test_all_rows_are_the_heads_own():
    entry = rows_of()
    assert row_weight(entry, "all") is entry.weight
    assert row_weight(rows_of(weight=None), "all") is None


def test_rows_of_objects():
    assert row_weight(rows_of(), "object").tolist() == [1.0, 0.0, 0.5]
    assert row_weight(rows_of(weight=None), "object").tolist() == [1.0, 0.0, 1.0]
    # All three logits are categories of objects; a label beyond them is the background's, one below is to be ignored.
    labels = torch.tensor([2, 3, -1])
    assert row_weight(rows_of(meaning=LogitMeaning("sigmoid"), labels=labels, weight=None), "object").tolist() == [
        1.0,
        0.0,
        0.0,
    ]
    with pytest.raises(ValueError, match=r"model\.distiller\.rows='object': the rows of head 's1' have no labels"):
        row_weight(rows_of(labels=None, tag="s1"), "object")


def test_rows_by_the_teacher():
    want = 1 - SOFTMAX.softmax(1)[:, 2]
    torch.testing.assert_close(row_weight(rows_of(weight=None), "teacher"), want)
    torch.testing.assert_close(row_weight(rows_of(labels=None), "teacher"), want * torch.tensor([1.0, 1.0, 0.5]))
    sigmoid = row_weight(rows_of(meaning=LogitMeaning("sigmoid"), weight=None), "teacher")
    torch.testing.assert_close(sigmoid, torch.tensor([2.0, 5.0, 3.0]).sigmoid())


def test_half_precision_logits_weigh_as_fp32_ones():
    logits = torch.tensor([[0.0, 2.0, 9.0], [-3.0, 0.0, 8.0]]).bfloat16()
    entry = AlignedLogits(logits, logits)
    want = logits.double().softmax(1)[:, :2].sum(1)
    torch.testing.assert_close(row_weight(entry, "teacher").double(), want, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", ["all", "object", "teacher"])
def test_in_a_step(rows):
    model = build_pair(tiny_rcnn(), teacher=perturb(build(tiny_rcnn(), seed=5)))
    model.distiller.row_weighting = rows
    seen = []
    components = model.distiller.loss.components

    def watch(student, teacher, weight, avg_factor, labels):
        seen.append((teacher, weight, avg_factor, labels))
        return components(student, teacher, weight, avg_factor, labels)

    model.distiller.loss.components = watch
    torch.manual_seed(0)
    losses = model(**batch(model), mode="loss")
    ((teacher, weight, avg_factor, labels),) = seen
    background = teacher.shape[1] - 1
    if rows == "object":
        assert torch.equal(weight > 0, labels < background) and (weight > 0).any()
    elif rows == "teacher":
        assert ((weight > 0) & (weight < 1)).all()
    assert losses["distill.loss_tisd"] > 0
    # The divisor is the head's own: fewer rows weigh less, they are not made up for.
    assert float(avg_factor) == pytest.approx(len(labels), rel=0.01)


def test_another_word_is_refused():
    from rekd_det.models.distillers.rekd_distiller import ReKDDistiller

    with pytest.raises(ValueError, match=r"model\.distiller\.rows must be one of 'all', 'object', 'teacher', got 'fg'"):
        ReKDDistiller(loss=dict(type="mmrazor.ReKDLoss"), rows="fg")
