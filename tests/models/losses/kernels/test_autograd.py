"""How the fused losses behave in a graph: repeated, partial, second-order and half-precision backward passes."""

import pytest
import torch
from kernel_cases import BACKENDS, LOSS_IDS, LOSSES, logits, run

from rekd_det.models.losses import ReKDLoss
from rekd_det.models.losses.kernels import function

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def components(backend, student, teacher, **options):
    leaf = student.to(backend[1]).requires_grad_()
    losses, statistics = ReKDLoss(top_k=2, backend=backend[0], **options).components(leaf, teacher.to(backend[1]))
    return leaf, losses | statistics


@pytest.mark.parametrize("upstream", [(3.0, 3.0), (3.0, -1.0)])
def test_backward_twice_gives_the_same_gradient(backend, upstream):
    leaf, out = components(backend, *logits(6, 7))
    total = upstream[0] * out["loss_tisd"] + upstream[1] * out["loss_ntid"]
    (first,) = torch.autograd.grad(total, leaf, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(total, leaf, retain_graph=True)
    (third,) = torch.autograd.grad(2 * total, leaf)
    torch.testing.assert_close(second, kept)
    torch.testing.assert_close(third, 2 * kept)
    assert torch.equal(first, kept), "a gradient that was handed out has changed"
    assert len({first.data_ptr(), second.data_ptr(), third.data_ptr()}) == 3


def test_gradients_accumulate_over_parts(backend):
    leaf, out = components(backend, *logits(6, 7))
    out["loss_tisd"].backward(retain_graph=True)
    out["loss_ntid"].backward()
    other, again = components(backend, *logits(6, 7))
    (again["loss_tisd"] + again["loss_ntid"]).backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_backward_of_a_released_graph_raises(backend):
    leaf, out = components(backend, *logits(6, 7))
    torch.autograd.grad(out["loss_tisd"], leaf)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(out["loss_tisd"], leaf)


def test_second_derivative_raises(backend):
    leaf, out = components(backend, *logits(6, 7))
    (grad,) = torch.autograd.grad(out["loss_tisd"], leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='eager'"):
        grad.square().sum().backward()


def test_no_rows(backend):
    leaf, out = components(backend, torch.empty(0, 7), torch.empty(0, 7))
    assert [float(v) for v in out.values()] == [0.0, 0.0, 0.0]
    (out["loss_tisd"] + out["loss_ntid"]).backward()
    assert leaf.grad.shape == (0, 7)


def test_without_gradient(backend):
    student, teacher = logits(6, 7)
    _, want = components(backend, student, teacher)
    with torch.no_grad():
        _, out = components(backend, student, teacher)
    assert not out["loss_tisd"].requires_grad
    torch.testing.assert_close(out["loss_tisd"], want["loss_tisd"].detach())


def test_inputs_are_left_as_they_were(backend):
    student, teacher = logits(6, 7)
    before = student.clone(), teacher.clone()
    leaf, out = components(backend, student, teacher)
    out["loss_tisd"].backward()
    assert torch.equal(leaf.detach().cpu(), before[0])
    assert torch.equal(teacher, before[1])


def test_nan_reaches_the_loss(backend):
    student, teacher = logits(6, 7)
    student[2, 3] = float("nan")
    _, out = components(backend, student, teacher)
    assert out["loss_tisd"].isnan() or out["loss_ntid"].isnan()
    student, teacher = logits(6, 7)
    teacher[2, 3] = float("nan")
    _, out = components(backend, student, teacher)
    assert out["loss_tisd"].isnan() or out["loss_ntid"].isnan()


def test_autocast_does_not_reach_the_arithmetic(backend, monkeypatch):
    lowered = []
    forward = function._LogitKD.forward

    def watched(*args):
        lowered.append(torch.is_autocast_enabled(backend[1]))
        return forward(*args)

    monkeypatch.setattr(function._LogitKD, "forward", staticmethod(watched))
    with torch.autocast(backend[1], torch.bfloat16):
        components(backend, *logits(6, 7))
    assert lowered == [False]


def test_fp16_gradient_survives_a_large_avg_factor(backend):
    # Divided by avg_factor before AMP's loss scale multiplies it, this gradient would be below fp16's smallest number.
    student, teacher = logits(4, 7, torch.float16)
    upstream = (65536.0 * 8, 65536.0 * 8)
    options = dict(top_k=2)
    _, want = run(ReKDLoss(backend="eager", **options), student, teacher, upstream, avg_factor=1e7)
    _, got = run(ReKDLoss(backend=backend[0], **options), student, teacher, upstream, backend[1], avg_factor=1e7)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(got, want, rtol=4e-3, atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_fp16_gradient_is_rounded_after_the_loss_scale(backend, activation):
    # A dense head's rows: tiny probabilities, whose gradients are below fp16's smallest number until AMP lifts them.
    student, teacher = (x - 12 for x in logits(48, 20))
    student, teacher = student.half(), teacher.half()
    options = dict(top_k=2, activation=activation, **(dict(tisd="split") if activation == "sigmoid" else {}))
    upstream = (65536.0, 65536.0)
    weight = torch.linspace(0.0, 1e-3, 48)
    _, want = run(
        ReKDLoss(backend="eager", **options), student.double(), teacher.double(), upstream, weight=weight.double()
    )
    loss = ReKDLoss(backend=backend[0], **options)
    _, got = run(loss, student, teacher, upstream, backend[1], weight=weight)
    torch.testing.assert_close(got, want.half(), rtol=2e-3, atol=6e-8)
    assert ((got == 0) == (want.half() == 0)).float().mean() > 0.999


def test_only_inputs_are_saved_for_backward(backend):
    student, teacher = logits(100, 20)
    student, teacher = student.to(backend[1]).requires_grad_(), teacher.to(backend[1])
    saved = []

    def pack(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        ReKDLoss(top_k=2, backend=backend[0])(student, teacher)
    large = [x.data_ptr() for x in saved if x.numel() >= 100]
    assert sorted(large) == sorted([student.data_ptr(), teacher.data_ptr()])


@pytest.mark.parametrize(("cls", "options"), LOSSES, ids=LOSS_IDS)
def test_gradcheck_in_fp64(backend, cls, options):
    if backend[0] == "triton":
        pytest.skip("the Triton kernels compute in fp32")
    if options.get("gamma"):
        pytest.skip("the modulating factor is a constant by definition")
    student, teacher = logits(3, 6, torch.float64)
    labels = torch.tensor([0, 3, -1], device=backend[1])
    loss = cls(backend=backend[0], **options)

    def parts(x):
        losses, _ = loss.components(x, teacher.to(backend[1]), gt_labels=labels)
        return tuple(losses.values())

    assert torch.autograd.gradcheck(parts, student.to(backend[1]).requires_grad_())
