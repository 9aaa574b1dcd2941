"""Matching two sets of predictions one to one."""

from itertools import permutations

import pytest
import torch

from rekd_det.models.adapters.matching import box_cost, class_cost, mask_cost, match


def random_cost(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_the_cheapest_of_all_assignments_is_found():
    cost = random_cost(2, 3, 5, 5)
    for layer, pairs in enumerate(match(cost)):
        assert pairs is not None
        rows, columns = (p.view(3, 5) for p in pairs)
        for image in range(3):
            assert rows[image].tolist() == list(range(image * 5, image * 5 + 5))
            got = cost[layer, image][torch.arange(5), columns[image] - image * 5].sum()
            best = min(cost[layer, image][torch.arange(5), torch.tensor(p)].sum() for p in permutations(range(5)))
            torch.testing.assert_close(got, best)


def test_the_identity_gathers_nothing():
    cost = random_cost(2, 2, 4, 4) + 1
    cost[0].diagonal(dim1=1, dim2=2).zero_()
    first, second = match(cost)
    assert first is None
    assert second is not None


@pytest.mark.parametrize("value", [0.0, 1.0, 3.7])
def test_a_tie_goes_to_the_identity(value):
    assert match(torch.full((1, 2, 6, 6), value)) == [None]


def test_rounding_does_not_break_a_tie():
    assert match(1 + 1e-7 * random_cost(1, 1, 6, 6)) == [None]


@pytest.mark.parametrize("queries,others", [(3, 6), (6, 3)])
def test_unequal_numbers_keep_the_pairs_that_fit_best(queries, others):
    cost = 1 + random_cost(1, 2, queries, others)
    cost[0, :, 2, 1] = cost[0, :, 0, 2] = cost[0, :, 1, 0] = 0
    ((rows, columns),) = match(cost)
    assert rows.tolist() == [0, 1, 2, queries, queries + 1, queries + 2]
    assert columns.tolist() == [2, 0, 1, others + 2, others, others + 1]


def predictions(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, count, 7, generator=generator)
    boxes = torch.rand(2, count, 4, generator=generator) * 0.5 + 0.1
    masks = torch.randn(2, count, 9, 12, generator=generator) * 4
    return logits, boxes, masks


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_costs_are_distances(activation):
    logits, boxes, masks = predictions()
    for cost in (class_cost(logits, logits, activation), box_cost(boxes, boxes), mask_cost(masks, masks)):
        assert cost.shape == (2, 5, 5)
        torch.testing.assert_close(cost, cost.transpose(1, 2))
        assert (cost >= 0).all()
        assert cost.diagonal(dim1=1, dim2=2).abs().max() < 1e-5
        assert cost[:, ~torch.eye(5, dtype=torch.bool)].min() > 1e-2


def test_box_cost_by_hand():
    a = torch.tensor([[[0.25, 0.25, 0.5, 0.5]]])
    b = torch.tensor([[[0.75, 0.75, 0.5, 0.5]]])
    # L1: 0.5 + 0.5. GIoU: no overlap, union 0.5 of an enclosing box of 1.
    assert box_cost(a, b).item() == pytest.approx(5 * 1.0 + 2 * 1.5)


def test_class_cost_by_hand():
    sure, opposite = torch.tensor([[[40.0, -40.0]]]), torch.tensor([[[-40.0, 40.0]]])
    assert class_cost(sure, opposite, "softmax").item() == pytest.approx(2 * 2.0)
    assert class_cost(sure, opposite, "sigmoid").item() == pytest.approx(2 * 2.0)


def test_mask_cost_by_hand_and_for_unequal_sizes():
    left = torch.full((1, 1, 8, 8), -40.0)
    right = left.clone()
    left[..., :4], right[..., 4:] = 40.0, 40.0
    # Every pixel differs; dice 1 - 1 / 65 with one pixel of smoothing.
    assert mask_cost(left, right).item() == pytest.approx(5 + 5 * (1 - 1 / 65), rel=1e-5)
    finer = torch.nn.functional.interpolate(left, scale_factor=2)
    assert mask_cost(left, finer) < 0.05 * mask_cost(left, right)


def test_masks_are_compared_in_fp32_under_autocast():
    masks = 5 * torch.randn(1, 20, 8, 8, generator=torch.Generator().manual_seed(0))
    alike = torch.cat([masks, masks + 0.01], 1)
    want = mask_cost(alike, alike)
    with torch.autocast("cpu", torch.bfloat16):
        got = mask_cost(alike, alike)
    assert torch.equal(got, want)
    assert match(got[None]) == [None]


def test_predictions_that_are_not_finite_can_be_matched():
    logits, boxes, masks = predictions()
    for x in (logits, boxes, masks):
        x[0, 0] = float("nan")
    cost = class_cost(logits, logits, "softmax") + box_cost(boxes, boxes) + mask_cost(masks, masks)
    assert torch.isfinite(cost).all()
    assert match(cost[None]) == [None]
