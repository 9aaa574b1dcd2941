"""The controls that are not a weighting of the top-K identity: BCKD's loss, DIST, z-scores of the logits."""

import numpy as np
import pytest
import torch
from mmrazor.models.losses import DISTLoss as MMRazorDISTLoss

from rekd_det.models.losses import BCKDLoss, DISTLoss, DKDLoss, GDKDLoss, KDLoss, ReKDLoss


def rows(n=20, c=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    s, t = (2 * torch.randn(n, c, generator=g, dtype=torch.float64) for _ in range(2))
    return s.requires_grad_(), t


def test_bckd_as_its_authors_write_it():
    s, t = rows()
    p, q = t.sigmoid(), s.sigmoid()
    bce = -(p * q.log() + (1 - p) * (1 - q).log())
    want = (bce * (q - p).abs()).sum(1)
    torch.testing.assert_close(BCKDLoss(reduction="none")(s, t), want)
    torch.testing.assert_close(BCKDLoss(gamma=2.0)(s, t), (bce * (q - p) ** 2).sum(1).mean())


def test_the_gradient_of_bckd_flows_through_its_factor():
    t = torch.tensor([[0.3]], dtype=torch.float64).logit()
    s = (t - 0.1).requires_grad_()
    (grad,) = torch.autograd.grad(BCKDLoss()(s, t), s)
    # The entropy of p, 0.61, times the slope of |q - p|, -0.2; a constant factor would leave -0.0004.
    assert float(grad) == pytest.approx(-0.124, abs=2e-3)
    split = ReKDLoss(top_k=1, activation="sigmoid", tisd="split", gamma=1.0)
    (grad,) = torch.autograd.grad(split(s, t), s)
    assert float(grad) == pytest.approx(-0.0004, abs=1e-4)


@pytest.mark.parametrize("loss", [BCKDLoss(), DISTLoss(), DISTLoss(activation="sigmoid"), DISTLoss(tau=3.0)])
def test_gradients_and_equal_logits(loss):
    s, t = rows(5, 4)
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, t, weight, 3.0), s)
    same = t.clone().requires_grad_()
    value = loss(same, t)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-9) and same.grad.abs().max() < 1e-7
    with pytest.raises(ValueError, match="no fused form"):
        type(loss)(backend="fused", activation=loss.activation)(s, t)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_dist_is_mmrazors_on_rows_that_all_count_1(tau):
    s, t = rows()
    theirs = MMRazorDISTLoss(inter_loss_weight=0.7, intra_loss_weight=1.3, tau=tau)(s, t)
    ours = DISTLoss(inter_loss_weight=0.7, intra_loss_weight=1.3, tau=tau)(s, t)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_dist_of_sigmoids():
    s, t = rows()
    losses, _ = DISTLoss(activation="sigmoid").components(s, t)
    q, p = s.detach().sigmoid().numpy(), t.sigmoid().numpy()
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    assert float(losses["loss_inter"]) == pytest.approx(inter)
    assert float(losses["loss_intra"]) == pytest.approx(intra)


def test_a_row_of_weight_2_counts_as_two_rows_in_dist():
    s, t = rows(4)
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0])
    twice = [0, 1, 1, 3]
    torch.testing.assert_close(DISTLoss()(s, t, weight, 4.0), DISTLoss()(s[twice], t[twice], None, 4.0))


def test_dist_where_there_is_no_relation():
    s, t = rows(1)
    assert DISTLoss().components(s, t)[0]["loss_intra"] == 0  # one row has no relation to another
    flat = torch.zeros(3, 6, requires_grad=True)
    loss = DISTLoss()(flat, torch.randn(3, 6))
    loss.backward()
    assert loss.isfinite() and flat.grad.isfinite().all()
    with pytest.raises(ValueError, match="DISTLoss: relations between categories need two"):
        DISTLoss()(s[:, :1], t[:, :1])


STANDARDIZED = [KDLoss(tau=2.0, standardize=True), ReKDLoss(top_k=2, standardize=True), GDKDLoss(2, standardize=True)]


@pytest.mark.parametrize("loss", STANDARDIZED)
@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_z_scores_forget_shift_and_range(loss, backend):
    loss.backend = backend
    s, t = rows()
    moved = 3.5 * t + torch.arange(len(t), dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(s, moved), loss(s, t))
    assert float(loss(5 * t - 2, t)) == pytest.approx(0.0, abs=1e-9)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), s)


def test_z_scores_as_their_authors_write_them():
    s, t = rows()

    def z(x):
        return (x - x.mean(1, keepdim=True)) / (1e-7 + x.std(1, keepdim=True))

    torch.testing.assert_close(KDLoss(tau=2.0, standardize=True)(s, t), KDLoss(tau=2.0)(z(s), z(t)))
    labels = t.argmax(1)
    torch.testing.assert_close(DKDLoss(standardize=True)(s, t, labels), DKDLoss()(z(s), z(t), labels))


def test_z_scores_of_masked_and_of_constant_logits():
    s, t = (x.detach().float() for x in rows())
    s[:, 2] = t[:, 2] = float("-inf")
    s[0] = 0.0
    s.requires_grad_()
    loss = KDLoss(standardize=True)(s, t)
    loss.backward()
    assert loss.isfinite() and s.grad.isfinite().all() and not s.grad[1:, 2].any()


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_nan_is_no_masked_logit(which, backend):
    """It must reach the loss, where the run ends with a message."""
    s, t = (x.detach().float() for x in rows())
    (s if which == "student" else t)[0, 1] = float("nan")
    assert KDLoss(standardize=True, backend=backend)(s, t).isnan()


@pytest.mark.parametrize("activation", ["sigmoid", "implicit_bg"])
def test_z_scores_have_no_meaning_for_sigmoids(activation):
    with pytest.raises(ValueError, match="ReKDLoss: standardize needs activation='softmax'"):
        ReKDLoss(activation=activation, standardize=True)
