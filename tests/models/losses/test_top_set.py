"""Which categories are in the top-K set of a row: K of them, or as many as hold a share; with or without background."""

import pytest
import torch

from rekd_det.models.losses import ReKDLoss
from rekd_det.models.losses.functional import top_set, topk_kl_terms
from rekd_det.structures import LogitMeaning

P = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)


@pytest.mark.parametrize(("share", "sizes"), [(0.4, [1, 1, 2]), (0.6, [2, 1, 3]), (0.9, [3, 1, 3]), (0.99, [3, 3, 3])])
def test_the_smallest_set_that_holds_the_share(share, sizes):
    found = top_set(P.log(), 16, share)
    assert found.sum(1).tolist() == sizes  # and one category at least stays in the tail
    assert found[2, :2].all(), "of equal categories the first ones"


def test_at_most_sixteen():
    assert top_set(torch.zeros(1, 40), 16, 0.95).sum() == 16


def test_mass_of_sigmoids_and_temperature():
    logits = torch.logit(torch.tensor([[0.6, 0.3, 0.05, 0.05]], dtype=torch.float64))
    assert top_set(logits, 16, 0.85, sigmoid=True).sum() == 2
    assert top_set(P.log(), 16, 0.6, tau=100.0).sum(1).tolist() == [3, 3, 3]


def test_a_row_whose_probabilities_underflow_still_has_a_set():
    assert top_set(torch.full((1, 5), -1e4), 16, 0.9, sigmoid=True).sum() >= 1


@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_rows_of_a_loss_have_sets_of_their_own(backend):
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    losses, statistics = ReKDLoss(top_k=0.6, reduction="sum", backend=backend).components(s, P.log())
    terms = [topk_kl_terms(s[i : i + 1], P.log()[i : i + 1], torch.arange(k)[None]) for i, k in enumerate([2, 1, 3])]
    torch.testing.assert_close(losses["loss_ntid"], sum(x.kl_tail for x in terms).squeeze())
    want = sum(x.kl_mass + x.top_mass * x.kl_top for x in terms).squeeze()
    torch.testing.assert_close(losses["loss_tisd"], want)
    torch.testing.assert_close(statistics["head_mass"], torch.tensor((0.8 + 0.97 + 0.75) / 3, dtype=torch.float64))


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("background", [0, 3])
def test_the_background_stays_out_of_the_set(backend, background):
    generator = torch.Generator().manual_seed(0)
    s, t = (3 * torch.randn(30, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    loss = ReKDLoss(top_k=2, reduction="sum", backend=backend, foreground_only=True)
    loss.read_meaning(LogitMeaning("softmax", background=background))
    losses, _ = loss.components(s, t)
    objects = [i for i in range(4) if i != background]
    index = torch.tensor(objects)[t[:, objects].argsort(1, descending=True)[:, :2]]
    terms = topk_kl_terms(s, t, index)
    torch.testing.assert_close(losses["loss_ntid"], terms.kl_tail.sum())
    torch.testing.assert_close(losses["loss_tisd"], (terms.kl_mass + terms.top_mass * terms.kl_top).sum())


def test_foreground_only_without_a_background():
    loss = ReKDLoss(top_k=2, foreground_only=True)
    with pytest.raises(ValueError, match="foreground_only=True, but the head has no background logit"):
        loss(torch.zeros(2, 4), torch.zeros(2, 4))
    loss.read_meaning(LogitMeaning("softmax"))
    with pytest.raises(ValueError, match="foreground_only=True, but the head has no background logit"):
        loss.check_num_logits(4)
