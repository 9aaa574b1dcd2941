"""What logits mean, and who reads it."""

import pytest
import torch

from rekd_det.structures import AlignedLogits, LogitMeaning

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 5.0], [1.0, 3.0, 0.0]])


def test_object_score_leaves_the_background_out_wherever_it_is():
    first, last = LogitMeaning("softmax", background=0), LogitMeaning("softmax", background=2)
    torch.testing.assert_close(first.object_score(LOGITS), 1 - LOGITS.softmax(1)[:, 0])
    torch.testing.assert_close(last.object_score(LOGITS), 1 - LOGITS.softmax(1)[:, 2])
    torch.testing.assert_close(LogitMeaning("sigmoid").object_score(LOGITS), torch.tensor([2.0, 5.0, 3.0]).sigmoid())


@pytest.mark.parametrize(
    ("meaning", "reason"),
    [
        (LogitMeaning("sigmoid", conditional=True), "has a separate objectness"),
        (LogitMeaning("softmax"), "has no background"),
    ],
)
def test_logits_that_do_not_tell_how_probable_an_object_is(meaning, reason):
    with pytest.raises(ValueError, match=reason):
        meaning.object_score(LOGITS)


def test_labels_and_columns_of_objects():
    labels = torch.tensor([-1, 0, 1, 2, 3])
    assert LogitMeaning("softmax", background=0).is_object(labels, 3).tolist() == [False, False, True, True, False]
    assert LogitMeaning("softmax", background=2).is_object(labels, 3).tolist() == [False, True, True, False, False]
    assert LogitMeaning("sigmoid").is_object(labels, 3).tolist() == [False, True, True, True, False]
    assert LogitMeaning("softmax", background=1).categories(LOGITS).tolist() == LOGITS[:, [0, 2]].tolist()
    assert LogitMeaning("softmax", background=2).num_categories(81) == 80
    assert LogitMeaning("sigmoid").num_categories(80) == 80


def test_how_a_loss_may_read_a_sigmoid_head():
    own = LogitMeaning("sigmoid")
    assert own.read_as("sigmoid", 80) is own
    assert own.read_as("softmax", 80) == LogitMeaning("softmax")
    assert own.read_as("implicit_bg", 80) == LogitMeaning("softmax", background=80)


@pytest.mark.parametrize(("activation", "background"), [("tanh", None), ("sigmoid", 0), ("softmax", -1)])
def test_meanings_that_cannot_be(activation, background):
    with pytest.raises(ValueError, match="LogitMeaning"):
        LogitMeaning(activation, background)


def test_rows_of_an_adapter_that_says_no_meaning():
    assert AlignedLogits(LOGITS, LOGITS).meaning == LogitMeaning("softmax", background=2)
