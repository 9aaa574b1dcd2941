"""The oracle: the identity, its special cases, its numerics."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from rekd_det.models.losses.functional import kl_bernoulli, kl_softmax, topk_index, topk_kl_terms

TOLERANCE = {torch.float64: dict(rtol=1e-10, atol=1e-10), torch.float32: dict(rtol=1e-5, atol=2e-5)}


@st.composite
def cases(draw):
    """Random rows: (student, teacher, K, tau)."""
    n, c = draw(st.integers(1, 6)), draw(st.integers(2, 40))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 8.0]))
    student, teacher = (scale * torch.randn(n, c, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher, draw(st.integers(1, c - 1)), draw(st.sampled_from([0.5, 1.0, 4.0]))


@given(cases())
@settings(max_examples=150, deadline=None)
def test_identity_holds_for_every_head_set(case):
    student, teacher, k, tau = case
    generator = torch.Generator().manual_seed(k)
    anything = torch.rand(student.shape, generator=generator).argsort(1)[:, :k]
    tolerance = dict(TOLERANCE[student.dtype])
    if student.dtype == torch.float32:  # a logarithm of a probability is known to the last bit of the largest logit
        largest = float(torch.stack([student, teacher]).abs().max()) / tau
        tolerance["atol"] = max(tolerance["atol"], 2e-6 * largest)
    for head in (topk_index(teacher, k), anything):
        mass, inside, tail, p = topk_kl_terms(student, teacher, head, tau)
        whole = F.kl_div(
            F.log_softmax(student / tau, 1), F.log_softmax(teacher / tau, 1), reduction="none", log_target=True
        ).sum(1)
        torch.testing.assert_close(mass + p * inside + (1 - p) * tail, whole, **tolerance)
        torch.testing.assert_close(kl_softmax(student, teacher, tau), whole, **tolerance)


@given(cases())
@settings(max_examples=80, deadline=None)
def test_terms_equal_their_definitions(case):
    student, teacher, k, tau = case
    head = topk_index(teacher, k)
    terms = topk_kl_terms(student.double(), teacher.double(), head, tau)
    p, q = (F.softmax(x.double() / tau, 1) for x in (teacher, student))
    mask = torch.zeros(p.shape, dtype=torch.bool).scatter_(1, head, True)
    mass_p, mass_q = (p * mask).sum(1), (q * mask).sum(1)
    rest_p, rest_q = (p * ~mask).sum(1), (q * ~mask).sum(1)
    mass = mass_p * (mass_p / mass_q).log() + rest_p * (rest_p / rest_q).log()
    inside = (p / mass_p[:, None] * ((p / mass_p[:, None]) / (q / mass_q[:, None])).log() * mask).sum(1)
    tail = (p / rest_p[:, None] * ((p / rest_p[:, None]) / (q / rest_q[:, None])).log() * ~mask).sum(1)
    for got, want in zip(terms, (mass, inside, tail, mass_p), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_closed_form_gradients(case):
    student, teacher, k, tau = case
    student, teacher = student.double().requires_grad_(), teacher.double()
    head = topk_index(teacher, k)
    mask = torch.zeros(student.shape, dtype=torch.bool).scatter_(1, head, True)
    p, q = F.softmax(teacher / tau, 1), F.softmax(student.detach() / tau, 1)
    mass_p, mass_q = ((x * mask).sum(1, keepdim=True) for x in (p, q))
    q_in, p_in = q / mass_q * mask, p / mass_p * mask
    q_out, p_out = ((x * ~mask) / (x * ~mask).sum(1, keepdim=True) for x in (q, p))
    want = (
        (q_in * (mass_q - mass_p) + q_out * (mass_p - mass_q)) / tau,
        (q_in - p_in) / tau,
        (q_out - p_out) / tau,
    )
    terms = topk_kl_terms(student, teacher, head, tau)
    for term, expected in zip(terms[:3], want, strict=True):
        (grad,) = torch.autograd.grad(term.sum(), student, retain_graph=True)
        torch.testing.assert_close(grad, expected, rtol=1e-8, atol=1e-10)


def test_by_hand():
    # Teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2), head = {0}.
    teacher = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    student = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log()
    terms = topk_kl_terms(student, teacher, torch.tensor([[0]]))
    mass = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    tail = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
    for got, want in zip(terms, (mass, 0.0, tail, 0.5), strict=True):
        assert got.item() == pytest.approx(want, abs=1e-12)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(4, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    s.requires_grad_()
    head = topk_index(t, 3)
    assert gradcheck(lambda x: topk_kl_terms(x, t, head, 2.0)[:3], s)
    assert gradcheck(lambda x: kl_softmax(x, t, 2.0), s)
    assert gradcheck(lambda x: kl_bernoulli(x, t, 2.0), s)


def test_mask_and_index_mean_the_same():
    t, s = torch.randn(5, 8), torch.randn(5, 8)
    head = topk_index(t, 3)
    mask = torch.zeros(5, 8, dtype=torch.bool).scatter_(1, head, True)
    for a, b in zip(topk_kl_terms(s, t, head), topk_kl_terms(s, t, mask), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_topk_out_of_range(k):
    with pytest.raises(ValueError, match=r"top_k must be in 1\.\.4"):
        topk_index(torch.randn(2, 4), k)


def test_bernoulli_equals_torch():
    t, s = torch.randn(6, 7, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    p, q = (t / 2).sigmoid(), (s / 2).sigmoid()
    want = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(kl_bernoulli(s, t, 2.0), want)
    factor = (t.sigmoid() - s.sigmoid()).abs() ** 1.5
    torch.testing.assert_close(kl_bernoulli(s, t, 2.0, gamma=1.5), want * factor)


def test_modulating_factor_carries_no_gradient():
    t, s = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    kl_bernoulli(s, t, gamma=1.0).sum().backward()
    want = (s.sigmoid() - t.sigmoid()) * (s.sigmoid() - t.sigmoid()).abs()
    torch.testing.assert_close(s.grad, want.detach())


EXTREME = {
    "opposite": ([[1e4, -1e4, -1e4, 0.0]], [[-1e4, 1e4, -1e4, 0.0]]),
    "head holds all mass": ([[0.0, 0.0, 0.0, 0.0]], [[1e4, -1e4, -1e4, -1e4]]),
    "masked class in both": ([[1.0, -math.inf, 2.0, 0.0]], [[2.0, -math.inf, 0.0, 1.0]]),
    "whole tail masked for the teacher": ([[1.0, 0.0, 2.0, 0.0]], [[2.0] + [-math.inf] * 3]),
    "masked for the student only": ([[1.0, -math.inf, 2.0, 0.0]], [[2.0, 1.0, 0.0, 1.0]]),
}


@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_stay_finite(name, k, tau, dtype):
    student, teacher = (torch.tensor(x, dtype=dtype) for x in EXTREME[name])
    student.requires_grad_()
    terms = topk_kl_terms(student, teacher, topk_index(teacher, k), tau)
    if "tail masked" in name and k == 1:
        assert terms.kl_tail == 0  # the teacher says nothing about it
    for value in (*terms, kl_softmax(student, teacher, tau), kl_bernoulli(student, teacher, tau, gamma=1.0)):
        assert torch.isfinite(value).all(), name
    (sum(terms[:3]).sum() + kl_softmax(student, teacher).sum() + kl_bernoulli(student, teacher).sum()).backward()
    assert torch.isfinite(student.grad).all(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_fp32(dtype):
    t, s = torch.randn(30, 81).to(dtype), torch.randn(30, 81).to(dtype)
    low = topk_kl_terms(s, t, topk_index(t, 5))
    full = topk_kl_terms(s.float(), t.float(), topk_index(t.float(), 5))
    for a, b in zip(low, full, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "head", [torch.zeros(3, 2, dtype=torch.long), torch.zeros(4, 3, dtype=torch.bool), torch.zeros(4)]
)
def test_top_index_of_wrong_shape(head):
    with pytest.raises(ValueError, match="top_index"):
        topk_kl_terms(torch.randn(4, 5), torch.randn(4, 5), head)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(4, 5\) and \(4, 6\)"):
        topk_kl_terms(torch.randn(4, 5), torch.randn(4, 6), torch.zeros(4, 1, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_top_k_is_the_stable_order(dtype):
    inf = float("inf")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 12, generator=generator).mul(2).round().to(dtype)
    rows[0] = torch.tensor([-0.0, 0.0, -0.0, 0.0, -inf, inf, -inf, inf, 1e-7, -1e-7, -0.0, 0.0])
    rows[1] = -inf
    for k in (1, 5, 12):
        want = rows.sort(dim=1, descending=True, stable=True).indices[:, :k]
        assert torch.equal(topk_index(rows, k), want)


def test_top_k_does_not_sort():
    # A sort of whole rows for a few of them is wasted, on a GPU most of all.
    ran = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            ran.append(str(func))
            return func(*args, **(kwargs or {}))

    with Names():
        topk_index(torch.randn(4, 9), 3)
    assert any("topk" in name for name in ran)
    assert not any("sort" in name for name in ran)
