"""The loss modules: weights, special cases, reductions, options."""

import pytest
import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS

from rekd_det.models.losses import (
    OWN_NAMES,
    BCKDLoss,
    DISTLoss,
    DKDLoss,
    GDKDLoss,
    KDLoss,
    LogitLoss,
    NTIDLoss,
    ReKDLoss,
    TISDLoss,
)
from rekd_det.models.losses.functional import kl_bernoulli, topk_index, topk_kl_terms

EVERY = [ReKDLoss, TISDLoss, NTIDLoss, KDLoss, DKDLoss, GDKDLoss]
BOTH_ENGINES = [(cls, backend) for cls in EVERY for backend in ("eager", "fused")]
EITHER_WAY = [*BOTH_ENGINES, (DISTLoss, "eager"), (BCKDLoss, "eager")]  # these have no fused form


def rows(n=40, c=12, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    s, t = (3 * torch.randn(n, c, generator=g, dtype=dtype) for _ in range(2))
    return s.requires_grad_(), t, torch.randint(0, c, (n,), generator=g)


def evaluate(loss, s, t, labels, **kwargs):
    return loss(s, t, labels, **kwargs) if isinstance(loss, DKDLoss) else loss(s, t, **kwargs)


@pytest.mark.parametrize("cls", [*EVERY, BCKDLoss, DISTLoss])
def test_registered_in_mmrazor(cls):
    name = OWN_NAMES.get(cls.__name__, cls.__name__)
    assert MODELS.get(f"mmrazor.{name}") is cls
    assert isinstance(MODELS.build(dict(type=f"mmrazor.{name}")), cls)


@pytest.mark.parametrize("name", OWN_NAMES)
@pytest.mark.parametrize("prefix", ["mmrazor.", ""])
def test_names_that_mmrazor_has_too(name, prefix):
    """They are MMRazor's in MMRazor's own distillers, and ours as the loss of ReKDDistiller."""
    assert MODELS.get(f"mmrazor.{name}").__module__.startswith("mmrazor.")
    distiller = MODELS.build(dict(type="mmrazor.ReKDDistiller", loss=dict(type=prefix + name)))
    assert type(distiller.loss).__module__.startswith("rekd_det.") and type(distiller.loss).__name__ == name


def test_joint_with_free_weights_spans_kd():
    # alpha = 1 and, per row, beta = 1 - P give classical KD back.
    s, t, _ = rows()
    tau = 2.0
    parts, _ = ReKDLoss(top_k=4, alpha=1, beta=1, tau=tau, reduction="none").components(s, t)
    p = topk_kl_terms(s, t, topk_index(t, 4), tau).top_mass
    kd = KDLoss(tau=tau, reduction="none")(s, t)
    torch.testing.assert_close(parts["loss_tisd"] + (1 - p) * parts["loss_ntid"], kd, rtol=1e-10, atol=1e-10)
    want = F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction="batchmean") * tau**2
    torch.testing.assert_close(KDLoss(tau=tau)(s, t), want, rtol=1e-10, atol=1e-10)


def test_joint_with_one_class_is_dkd_where_the_target_is_the_top_class():
    s, t, _ = rows()
    rekd = ReKDLoss(top_k=1, alpha=1.5, beta=0.5, tau=3.0)(s, t)
    dkd = DKDLoss(alpha=1.5, beta=0.5, tau=3.0)(s, t, t.argmax(1))
    torch.testing.assert_close(rekd, dkd, rtol=1e-10, atol=1e-10)


def test_within_is_gdkd_without_mass():
    s, t, _ = rows()
    rekd = ReKDLoss(top_k=4, alpha=0.7, beta=0.3, tisd="within")(s, t)
    gdkd = GDKDLoss(top_k=4, mass_weight=0.0, head_weight=0.7, tail_weight=0.3)(s, t)
    torch.testing.assert_close(rekd, gdkd, rtol=1e-10, atol=1e-10)
    rekd = ReKDLoss(top_k=4, alpha=0.7, beta=0.3, tisd="within", mass_weight=0.9)(s, t)
    gdkd = GDKDLoss(top_k=4, mass_weight=0.9, head_weight=0.7, tail_weight=0.3)(s, t)
    torch.testing.assert_close(rekd, gdkd, rtol=1e-10, atol=1e-10)


def test_dkd_as_its_paper_writes_it():
    s, t, y = rows()
    p, q = t.softmax(1), s.softmax(1)
    hot = F.one_hot(y, t.shape[1]).bool()
    b_p, b_q = (torch.stack([(x * hot).sum(1), (x * ~hot).sum(1)], 1) for x in (p, q))
    tckd = (b_p * (b_p / b_q).log()).sum(1).mean()
    n_p, n_q = (x.masked_fill(hot, -1e9).softmax(1) for x in (t, s))
    nckd = (n_p * (n_p.clamp(min=1e-300) / n_q.clamp(min=1e-300)).log()).sum(1).mean()
    torch.testing.assert_close(DKDLoss(alpha=2.0, beta=0.5)(s, t, y), 2 * tckd + 0.5 * nckd)


def test_dkd_skips_rows_without_a_class():
    s, t, y = rows()
    y[:10] = -1
    parts, _ = DKDLoss(reduction="none").components(s, t, gt_labels=y)
    assert parts["loss_tckd"][:10].abs().max() == 0
    assert parts["loss_tckd"][10:].min() > 0


def test_dkd_needs_labels():
    s, t, _ = rows()
    with pytest.raises(ValueError, match="gt_labels"):
        DKDLoss().components(s, t)


def test_shifting_the_teachers_head_changes_nothing_within():
    s, t, _ = rows()
    shifted = t + 2 * torch.zeros_like(t).scatter(1, topk_index(t, 3), 1.0)  # the head set stays
    within, joint = ReKDLoss(top_k=3, tisd="within"), ReKDLoss(top_k=3)
    torch.testing.assert_close(within(s, t), within(s, shifted), rtol=1e-10, atol=1e-10)
    assert not torch.isclose(joint(s, t), joint(s, shifted), rtol=1e-9)


def test_selection_by_the_student():
    s, t, _ = rows()
    terms = topk_kl_terms(s, t, topk_index(s, 3))
    parts, _ = ReKDLoss(top_k=3, alpha=1, beta=1, select_by="student", reduction="none").components(s, t)
    torch.testing.assert_close(parts["loss_ntid"], terms.kl_tail)


def test_the_split_of_sigmoids_is_classical_kd():
    s, t, _ = rows()
    split = dict(alpha=1, beta=1, tau=2.0, activation="sigmoid", tisd="split")
    parts, _ = ReKDLoss(top_k=4, **split, gamma=1.0).components(s, t)
    want = kl_bernoulli(s, t, 2.0, 1.0).sum(1).mean() * 4
    torch.testing.assert_close(parts["loss_tisd"] + parts["loss_ntid"], want)
    kd = KDLoss(tau=2.0, activation="sigmoid")(s, t)
    torch.testing.assert_close(kd, ReKDLoss(top_k=4, **split)(s, t))


def test_implicit_background_is_softmax_with_a_zero_logit():
    s, t, _ = rows()
    a = ReKDLoss(top_k=3, activation="implicit_bg")(s, t)
    b = ReKDLoss(top_k=3)(F.pad(s, (0, 1)), F.pad(t, (0, 1)))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("cls", "backend"), BOTH_ENGINES)
def test_parts_sum_to_the_loss(cls, backend):
    s, t, y = rows()
    loss = cls(backend=backend, loss_weight=2.0, tau=2.0)
    parts, statistics = loss.components(s, t, gt_labels=y)
    torch.testing.assert_close(evaluate(loss, s, t, y), sum(parts.values()))
    assert all("loss" in k for k in parts) and not any("loss" in k for k in statistics)  # mmengine's rule
    assert not any(v.requires_grad for v in statistics.values())
    assert all(v.dim() == 0 for v in (*parts.values(), *statistics.values()))


@pytest.mark.parametrize(("cls", "backend"), BOTH_ENGINES)
def test_reductions_weights_and_avg_factor(cls, backend):
    s, t, y = rows()
    w = torch.rand(len(s), dtype=torch.float64)
    per_row = evaluate(cls(reduction="none"), s, t, y)
    assert per_row.shape == (40,)
    torch.testing.assert_close(evaluate(cls(reduction="none"), s, t, y, weight=w), per_row * w)
    torch.testing.assert_close(evaluate(cls(backend=backend, reduction="sum"), s, t, y, weight=w), (per_row * w).sum())
    torch.testing.assert_close(evaluate(cls(backend=backend), s, t, y), per_row.mean())
    torch.testing.assert_close(
        evaluate(cls(backend=backend), s, t, y, weight=w, avg_factor=7.0), (per_row * w).sum() / 7, rtol=1e-6, atol=0
    )
    with pytest.raises(ValueError, match="avg_factor"):
        evaluate(cls(backend=backend, reduction="sum"), s, t, y, avg_factor=2.0)


@pytest.mark.parametrize(("cls", "backend"), BOTH_ENGINES)
def test_upstream_gradient_and_frozen_teacher(cls, backend):
    s, t, y = rows()
    t.requires_grad_()
    (g1,) = torch.autograd.grad(evaluate(cls(backend=backend), s, t, y), s, retain_graph=True)
    (3 * evaluate(cls(backend=backend), s, t, y)).backward()
    torch.testing.assert_close(s.grad, 3 * g1)
    assert t.grad is None


@pytest.mark.parametrize(("cls", "backend"), EITHER_WAY)
def test_zero_rows_give_an_attached_zero(cls, backend):
    s = torch.randn(0, 12, requires_grad=True)
    loss = evaluate(cls(backend=backend), s, torch.randn(0, 12), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert s.grad.shape == (0, 12)


@pytest.mark.parametrize(("cls", "backend"), EITHER_WAY)
def test_all_rows_ignored(cls, backend):
    s, t, y = rows()
    loss = evaluate(cls(backend=backend), s, t, y, weight=torch.zeros(40), avg_factor=0.0)
    loss.backward()
    assert loss == 0
    assert s.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("cls", "backend"), BOTH_ENGINES)
def test_low_precision_logits(cls, backend, dtype):
    s, t, y = rows(dtype=torch.float32)
    low = s.detach().to(dtype).requires_grad_()
    loss = evaluate(cls(backend=backend), low, t.to(dtype), y)
    loss.backward()
    assert loss.dtype == torch.float32
    want = evaluate(cls(backend=backend), low.detach().float(), t.to(dtype).float(), y)
    torch.testing.assert_close(loss, want)
    assert torch.isfinite(low.grad).all()


class _Projected(LogitLoss):
    """A user's own loss with an operation that autocast lowers on every device."""

    def row_terms(self, student, teacher, gt_labels):
        return dict(loss_projected=((student - teacher) @ torch.full((12, 1), 0.1)).squeeze(1)), {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_lower_the_eager_arithmetic(dtype):
    s, t, _ = (x.float() for x in rows())
    want = _Projected()(s, t)
    with torch.autocast("cpu", dtype):
        assert ((s - t) @ torch.full((12, 1), 0.1)).dtype == dtype
        assert torch.equal(_Projected()(s, t), want)


def test_plain_mmrazor_distiller_takes_the_loss():
    cfg = dict(
        type="mmrazor.ConfigurableDistiller",
        distill_losses=dict(loss_rekd=dict(type="mmrazor.ReKDLoss", top_k=3)),
        student_recorders=dict(fc=dict(type="mmrazor.ModuleOutputs", source="fc")),
        teacher_recorders=dict(fc=dict(type="mmrazor.ModuleOutputs", source="fc")),
        loss_forward_mappings=dict(
            loss_rekd=dict(
                preds_S=dict(from_student=True, recorder="fc"), preds_T=dict(from_student=False, recorder="fc")
            )
        ),
    )
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmrazor"):
        distiller = MODELS.build(cfg)
    assert isinstance(distiller.distill_losses["loss_rekd"], ReKDLoss)


def test_a_plain_mmrazor_config_means_mmrazors_dkd():
    s, t, y = rows()
    loss = MODELS.build(dict(type="mmrazor.DKDLoss", tau=1, alpha=1.0, beta=2.0, reduction="sum", loss_weight=0.5))
    torch.testing.assert_close(loss(s, t, y), 0.5 * DKDLoss(beta=2.0, reduction="sum")(s, t, y))
    assert type(loss) is not DKDLoss


@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_avg_factor_of_one_element(backend):
    s, t, _ = rows()
    want = KDLoss(backend=backend)(s, t, avg_factor=7.0)
    got = KDLoss(backend=backend)(s, t, avg_factor=torch.tensor([7.0]))
    assert got.shape == () and torch.isclose(got, want)
    with pytest.raises(ValueError, match=r"avg_factor must be one number, got \(2,\)"):
        KDLoss(backend=backend)(s, t, avg_factor=torch.tensor([7.0, 7.0]))


BAD_OPTIONS = [
    (ReKDLoss, dict(top_k=True), "top_k must be an int >= 1"),
    (ReKDLoss, dict(beta=float("nan")), "beta must be a finite number"),
    (ReKDLoss, dict(beta="0.25"), "beta must be a finite number"),
    (ReKDLoss, dict(reduction="batchmean"), "reduction must be one of"),
    (ReKDLoss, dict(loss_weight=-1), "loss_weight must be"),
    (ReKDLoss, dict(mass_weight=1.0), "mass_weight needs tisd='within'"),
    (ReKDLoss, dict(tisd="split"), "tisd='split' needs activation='sigmoid'"),
    (ReKDLoss, dict(gamma=1.0, activation="sigmoid"), "gamma needs activation='sigmoid' and tisd='split'"),
    (ReKDLoss, dict(top_k=1.0), "or a float between 0 and 1"),
    (ReKDLoss, dict(top_k=0.0), "or a float between 0 and 1"),
    (ReKDLoss, dict(activation="sigmoid", foreground_only=True), "foreground_only needs a background logit"),
    (GDKDLoss, dict(top_k=0.9), "top_k must be an int >= 1, got 0.9"),
    (GDKDLoss, dict(top_k=-3), "top_k must be an int >= 1"),
    (GDKDLoss, dict(head_weight=-1), "head_weight must be"),
    (GDKDLoss, dict(activation="sigmoid"), "activation must be one of softmax, implicit_bg"),
    (DKDLoss, dict(activation="sigmoid"), "activation must be one of softmax, implicit_bg"),
    (KDLoss, dict(tau=float("inf")), "tau must be a finite number"),
]


@pytest.mark.parametrize(("cls", "options", "message"), BAD_OPTIONS)
def test_bad_options(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


@pytest.mark.parametrize(
    ("cls", "key"), [(TISDLoss, "beta"), (NTIDLoss, "alpha"), (NTIDLoss, "tisd"), (NTIDLoss, "gamma")]
)
def test_part_losses_refuse_the_other_parts_options(cls, key):
    with pytest.raises(TypeError, match=f"{cls.__name__} has no option '{key}'"):
        cls(**{key: 1.0})


@pytest.mark.parametrize("cls", [ReKDLoss, GDKDLoss])
def test_head_must_leave_a_tail(cls):
    s, t, _ = rows(c=5)
    with pytest.raises(ValueError, match="leaves no tail category: the head has 5 logits"):
        cls(top_k=5)(s, t)
    cls(top_k=5, activation="implicit_bg")(s, t)  # six with the background


def test_dkd_needs_a_category_beside_the_target():
    s, t, labels = rows(c=1)
    with pytest.raises(ValueError, match="DKDLoss: the head has 1 logit per row"):
        DKDLoss()(s, t, labels)
    assert torch.isfinite(DKDLoss(activation="implicit_bg")(s, t, labels))


def test_shape_errors_name_the_loss():
    with pytest.raises(ValueError, match="ReKDLoss: student and teacher logits"):
        ReKDLoss()(torch.randn(4, 12), torch.randn(5, 12))
    with pytest.raises(ValueError, match="weight must be"):
        ReKDLoss()(torch.randn(4, 12), torch.randn(4, 12), weight=torch.ones(3))
