"""The fused losses on several CPU threads."""

import pytest
import torch

from rekd_det.models.losses import KDLoss, ReKDLoss
from rekd_det.models.losses.kernels.threads import on_threads

ROWS = 20_000  # ten blocks of 80 classes


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def value_and_gradient(loss, rows=ROWS):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, rows, 80, generator=generator)
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    return value.detach(), student.grad


@pytest.mark.parametrize("rows", [0, 1, 100, ROWS])
@pytest.mark.parametrize(
    "loss",
    [ReKDLoss(backend="fused"), ReKDLoss(backend="fused", activation="sigmoid"), KDLoss(backend="fused")],
    ids=["rekd", "sigmoid", "kd"],
)
def test_two_threads_give_the_bits_of_one(loss, rows, two_threads):
    value, gradient = value_and_gradient(loss, rows)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    expected = value_and_gradient(loss, rows)
    assert torch.equal(value, expected[0]) and torch.equal(gradient, expected[1])


def test_threads_share_the_blocks(two_threads):
    seen = []

    def run(blocks):
        seen.append((len(blocks), torch.get_num_threads(), torch.is_grad_enabled()))
        return [block.start for block in blocks]

    blocks = [slice(i, i + 1) for i in range(9)]
    with torch.no_grad():
        assert on_threads(run, blocks) == list(range(9))
    assert sorted(seen) == [(4, 1, False), (5, 1, False)]


def test_an_error_of_a_thread_is_raised_and_the_threads_are_as_before(two_threads):
    def run(blocks):
        if blocks[0].start:
            raise ValueError("the second half")
        return [0] * len(blocks)

    with pytest.raises(ValueError, match="the second half"):
        on_threads(run, [slice(i, i + 1) for i in range(8)])
    assert torch.get_num_threads() == 2
