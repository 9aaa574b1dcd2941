"""ReKD on sigmoid heads: the chain rule of the KL between products of Bernoullis, by brute force."""

import itertools

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rekd_det.models.losses import KDLoss, NTIDLoss, ReKDLoss
from rekd_det.models.losses.functional import kl_bernoulli, sigmoid_terms, topk_index
from rekd_det.models.losses.kernels import eager

BACKENDS = pytest.mark.parametrize("backend", ["eager", "fused"])


def rows(n=20, c=6, dtype=torch.float64, seed=0, mean=-1.0, spread=2.0):
    g = torch.Generator().manual_seed(seed)
    s, t = (mean + spread * torch.randn(n, c, generator=g, dtype=torch.float64) for _ in range(2))
    return s.to(dtype).requires_grad_(), t.to(dtype)


def parts(s: Tensor, t: Tensor, backend: str, **options) -> tuple[Tensor, Tensor]:
    """TISD and NTID, summed over the rows."""
    losses, _ = ReKDLoss(activation="sigmoid", backend=backend, reduction="sum", **options).components(s, t)
    return losses["loss_tisd"], losses["loss_ntid"]


def some_present(logits: Tensor, tail: Tensor) -> Tensor:
    """A of each row, as losses.md writes it."""
    return 1 - torch.where(tail, 1 - logits.sigmoid(), 1.0).prod(1)


def in_tail(t: Tensor, k: int) -> Tensor:
    return torch.ones_like(t, dtype=torch.bool).scatter_(1, topk_index(t, k), False)


@BACKENDS
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    c=st.integers(2, 12),
    k=st.integers(1, 11),
    tau=st.sampled_from([0.5, 1.0, 3.0]),
    mean=st.floats(-8, 3),
)
def test_classical_kd_is_tisd_and_a_times_ntid(backend, seed, c, k, tau, mean):
    k = min(k, c - 1)
    s, t = rows(1, c, seed=seed, mean=mean)  # one row, whose beta is A
    a = some_present(t / tau, in_tail(t, k))
    tisd, ntid = parts(s, t, backend, top_k=k, tau=tau, beta=float(a))
    kd = KDLoss(activation="sigmoid", tau=tau, reduction="sum")(s, t)
    torch.testing.assert_close(tisd + ntid, kd, rtol=1e-9, atol=1e-12)
    assert ntid >= -1e-12


@BACKENDS
def test_ntid_is_the_kl_over_all_tail_vectors_with_something_in_them(backend):
    s, t = rows(c=6)
    tail = in_tail(t, 2)
    want = torch.zeros(len(t), dtype=torch.float64)
    for vector in itertools.product([0.0, 1.0], repeat=6):
        v = torch.tensor(vector, dtype=torch.float64)
        # Only vectors over the tail: the head's entries stay 0.
        outside = (v[None] * ~tail).sum(1) > 0
        log_p, log_q = (
            (torch.where(tail, v * x - torch.nn.functional.softplus(x), 0.0).sum(1) - some_present(x, tail).log())
            for x in (t, s)
        )
        if v.any():
            want += torch.where(outside, 0.0, log_p.exp() * (log_p - log_q))
    _, ntid = parts(s, t, backend, top_k=2)
    torch.testing.assert_close(ntid, want.sum(), rtol=1e-10, atol=1e-12)


@BACKENDS
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_gradients_are_those_of_the_closed_form(backend, tau):
    s, t = rows()
    tail = in_tail(t, 2)
    p, q = (t / tau).sigmoid(), (s.detach() / tau).sigmoid()
    a_t, a_s = (some_present(x / tau, tail)[:, None] for x in (t, s.detach()))
    tisd, ntid = parts(s, t, backend, top_k=2, tau=tau)
    (on_tisd,) = torch.autograd.grad(tisd, s, retain_graph=True)
    (on_ntid,) = torch.autograd.grad(ntid, s)
    torch.testing.assert_close(on_ntid, torch.where(tail, q / a_s - p / a_t, 0.0) * tau)
    torch.testing.assert_close(on_tisd, torch.where(tail, q * (a_s - a_t) / a_s, q - p) * tau)


@BACKENDS
@pytest.mark.parametrize("options", [{}, dict(tisd="within"), dict(tisd="within", mass_weight=0.4), dict(top_k=0.5)])
def test_gradcheck(backend, options):
    s, t = rows(4, 5)
    assert torch.autograd.gradcheck(lambda x: parts(x, t, backend, **{"top_k": 2, **options}), s)


@BACKENDS
def test_within_leaves_the_bucket_out(backend):
    s, t = rows()
    want = kl_bernoulli(s, t).gather(1, topk_index(t, 2)).sum()
    torch.testing.assert_close(parts(s, t, backend, top_k=2, tisd="within")[0], want)
    with_bucket = parts(s, t, backend, top_k=2, tisd="within", mass_weight=1.0)
    torch.testing.assert_close(with_bucket, parts(s, t, backend, top_k=2))


@BACKENDS
@pytest.mark.parametrize("teacher", [-40.0, -27.6, -20.0, -12.0, -4.0, 0.0, 6.0])
@pytest.mark.parametrize("student", [-40.0, -27.6, -20.0, -12.0, -4.0, 0.0, 6.0])
def test_fp32_from_tails_that_never_are_to_tails_that_always_are(backend, teacher, student):
    s, t = rows(8, 20, spread=1.0, mean=0.0)
    s, t = (s.detach() + student).float().requires_grad_(), (t + teacher).float()
    wide = s.detach().double().requires_grad_()
    values, exact = parts(s, t, backend, top_k=3), parts(wide, t.double(), "eager", top_k=3)
    for value, want in zip(values, exact, strict=True):
        (grad,) = torch.autograd.grad(value, s, retain_graph=True)
        (wanted,) = torch.autograd.grad(want, wide, retain_graph=True)
        # Logits of size 40 are known to 2e-6 in fp32.
        torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=4e-5)
        torch.testing.assert_close(grad.double(), wanted, rtol=2e-5, atol=4e-6 * float(wanted.abs().max()))


def test_the_reference_holds_where_its_own_formula_would_not():
    """fp64 with A = 1e-12, against mpmath at 60 digits."""
    mpmath.mp.dps = 60
    s, t = rows(3, 5, mean=-29.0, spread=1.0)
    s = s.detach() + torch.tensor([[0.0], [20.0], [-30.0]], dtype=torch.float64)
    want = mpmath.mpf(0)
    for row_s, row_t, tail in zip(s, t, in_tail(t, 2), strict=True):
        p, q = ([1 / (1 + mpmath.e ** -mpmath.mpf(float(x))) for x in row[tail]] for row in (row_t, row_s))
        a_t, a_s = (1 - mpmath.fprod(1 - x for x in side) for side in (p, q))

        def kl(x, y):
            return x * mpmath.log(x / y) + (1 - x) * mpmath.log((1 - x) / (1 - y))

        want += (sum(map(kl, p, q)) - kl(a_t, a_s)) / a_t
    _, ntid = parts(s, t, "eager", top_k=2)
    assert float(ntid) == pytest.approx(float(want), rel=1e-12)


@BACKENDS
def test_one_category_has_no_tail(backend):
    s, t = rows(c=1)
    tisd, ntid = parts(s, t, backend, top_k=1)
    torch.testing.assert_close(tisd, KDLoss(activation="sigmoid", reduction="sum")(s, t))
    assert ntid == 0
    (grad,) = torch.autograd.grad(tisd + ntid, s)
    torch.testing.assert_close(grad, s.detach().sigmoid() - t.sigmoid())
    assert parts(s, t, backend, top_k=0.9)[0] == tisd
    with pytest.raises(ValueError, match="top_k=5, but the head has one category; set top_k=1"):
        parts(s, t, backend, top_k=5)
    with pytest.raises(ValueError, match="leaves no tail category"):
        NTIDLoss(top_k=1, activation="sigmoid", backend=backend)(s, t)


@BACKENDS
def test_a_tail_that_the_teacher_masks_costs_nothing(backend):
    s, t = rows()
    t[0, 2:] = float("-inf")
    t[0, :2] = 0.0
    tisd, ntid = parts(s[:1], t[:1], backend, top_k=2)
    assert ntid == 0 and tisd.isfinite()


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_the_split_has_the_share_of_the_top_set_without_the_chain_rule(monkeypatch, gamma):
    s, t = rows(dtype=torch.float32)
    loss = ReKDLoss(top_k=2, activation="sigmoid", tisd="split", gamma=gamma, tau=2.0, backend="eager")
    terms = sigmoid_terms(s, t, ~in_tail(t, 2), 2.0)
    monkeypatch.delattr(eager, "sigmoid_terms")
    losses, statistics = loss.components(s, t)
    assert torch.equal(statistics["head_mass"], terms.top_mass.mean())
    per_class = kl_bernoulli(s, t, 2.0, gamma) * 4
    assert torch.equal(losses["loss_ntid"], per_class.masked_fill(~in_tail(t, 2), 0.0).sum(1).mean())


def test_the_chain_rule_computes_its_bernoullis_once(monkeypatch):
    s, t = rows()
    want = parts(s, t, "eager", top_k=2)
    monkeypatch.delattr(eager, "kl_bernoulli")
    assert all(map(torch.equal, parts(s, t, "eager", top_k=2), want))
