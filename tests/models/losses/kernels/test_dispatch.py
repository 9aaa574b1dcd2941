"""Which backend is taken, and what is said where none can be."""

import pytest
import torch
from kernel_cases import HAS_TRITON, logits

import rekd_det.models.losses.kernels.dispatch as dispatch
from rekd_det.models.losses import GDKDLoss, ReKDLoss
from rekd_det.models.losses.kernels import choose

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")


class Doubled(ReKDLoss):
    """A formula of its own on top of a loss that has a fused form."""

    def row_terms(self, student, teacher, gt_labels=None):
        terms, statistics = super().row_terms(student, teacher, gt_labels)
        return {k: 2 * v for k, v in terms.items()}, statistics


def taken(loss, student, teacher, weight=None, backend="auto"):
    spec = loss.kernel_spec() if loss._described else None
    return choose(backend, student, teacher, weight, loss.reduction, spec)


def test_auto_fuses_on_cpu():
    assert taken(ReKDLoss(), *logits(4, 9)) == "fused"


def test_auto_is_eager_where_nothing_else_serves():
    student, teacher = logits(4, 9)
    assert taken(ReKDLoss(reduction="none"), student, teacher) == "eager"
    assert taken(ReKDLoss(), student, teacher, weight=torch.ones(4, requires_grad=True)) == "eager"
    assert taken(ReKDLoss(), student.to("meta"), teacher.to("meta")) == "eager"
    assert taken(Doubled(), student, teacher) == "eager"


def test_a_subclass_with_another_formula_is_not_computed_by_the_old_kernel():
    student, teacher = logits(4, 9)
    torch.testing.assert_close(Doubled()(student, teacher), 2 * ReKDLoss()(student, teacher))


def test_gradient_of_the_weights_is_kept():
    student, teacher = logits(4, 9)
    weight = torch.ones(4, requires_grad=True)
    ReKDLoss()(student, teacher, weight).backward()
    rows = ReKDLoss(reduction="none")(student, teacher)
    torch.testing.assert_close(weight.grad, rows / 4)


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"ReKDLoss: backend must be one of .*fused"):
        ReKDLoss(backend="cuda")


@pytest.mark.parametrize("loss", [GDKDLoss(reduction="none", backend="fused"), Doubled(backend="fused")])
def test_backend_that_cannot_serve_the_loss(loss):
    with pytest.raises(ValueError, match=f"{type(loss).__name__}: .*no fused form.*'auto' or 'eager'"):
        loss(*logits(4, 9))


def test_triton_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    with pytest.raises(ImportError, match="needs the package triton"):
        ReKDLoss(backend="triton")(*logits(4, 9))


@needs_triton
@pytest.mark.parametrize(
    ("loss", "dtype", "classes", "reason"),
    [
        (ReKDLoss(top_k=17, backend="triton"), torch.float32, 20, "top_k=17"),
        (ReKDLoss(backend="triton"), torch.float64, 20, "float64"),
        (ReKDLoss(backend="triton"), torch.float32, 4097, "4097 logits per row do not fit"),
        (ReKDLoss(backend="triton", activation="implicit_bg"), torch.float32, 2048, "2048 logits per row do not fit"),
        (ReKDLoss(backend="triton", activation="sigmoid", tisd="split", gamma=1.0), torch.float32, 2049, "2049 logits"),
    ],
)
def test_input_that_triton_cannot_serve(loss, dtype, classes, reason):
    with pytest.raises(ValueError, match=f"{reason}.*use backend='auto'"):
        loss(*logits(2, classes, dtype))


@needs_triton
def test_triton_on_cpu_tensors(monkeypatch):
    import rekd_det.models.losses.kernels.triton as kernels

    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(ValueError, match="tensors are on cpu"):
        ReKDLoss(backend="triton")(*logits(2, 9))


def test_compiled_code_takes_the_eager_formulation(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert taken(ReKDLoss(), *logits(4, 9)) == "eager"
