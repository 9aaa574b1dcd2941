"""A GPU on which the kernel does not serve: one warning, then torch. A kernel that computes something else: an error.

The tests need no GPU: CPU tensors are let take the way of a GPU's, and Triton's interpreter stands for the compiler.
"""

import logging

import pytest
import torch
from kernel_cases import HAS_TRITON, ON_GPU, logits
from mmengine.logging import MMLogger

from rekd_det.models.losses import DKDLoss, KDLoss, ReKDLoss
from rekd_det.models.losses.kernels import dispatch
from rekd_det.models.losses.kernels.self_check import WrongKernel

needs_interpreter = pytest.mark.skipif(ON_GPU or not HAS_TRITON, reason="needs Triton's interpreter")


@pytest.fixture
def warnings(monkeypatch):
    """CPU tensors go the way of a GPU's, nothing was built or told yet; the warnings of the test."""
    monkeypatch.setitem(dispatch.FASTEST, "cpu", "triton")
    monkeypatch.setattr(dispatch, "_BUILT", {})
    monkeypatch.setattr(dispatch, "_TOLD", set())
    told = []

    class Keep(logging.Handler):
        def emit(self, record):
            told.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield told
    logger.removeHandler(handler)


def trained(loss, dtype=torch.float32, classes=9, **kwargs):
    """Value and gradient of a step through the public loss."""
    student, teacher = logits(6, classes, dtype)
    student.requires_grad_()
    total = loss(student, teacher, **kwargs)
    total.backward()
    return total.detach(), student.grad


def assert_falls_back(told, reason, loss=None, times=2, **kwargs):
    loss = loss or ReKDLoss(top_k=2)
    for _ in range(times):
        got = trained(loss, **kwargs)
    loss.backend = "eager"
    for a, b in zip(got, trained(loss, **kwargs), strict=True):
        assert torch.equal(a, b)
    assert len(told) == 1, told
    assert "runs in plain torch" in told[0]
    assert reason in told[0]


def test_no_triton(warnings, monkeypatch):
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    assert_falls_back(warnings, "triton is not installed")


def test_triton_that_cannot_be_imported(warnings, monkeypatch):
    def broken(*_):
        raise ImportError("libtriton.so: undefined symbol")

    monkeypatch.setattr(dispatch, "_why_not_triton", broken)
    monkeypatch.setattr(dispatch, "_has_triton", lambda: True)
    assert_falls_back(warnings, "ImportError: libtriton.so: undefined symbol")


@needs_interpreter
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        FileNotFoundError(2, "No such file or directory", "ptxas"),
        NotImplementedError("at 17:4:\nthe compiler's own words"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_kernel_that_fails_to_build(warnings, monkeypatch, error):
    import rekd_det.models.losses.kernels.triton as kernels

    calls = []

    class Builder:
        def __getitem__(self, grid):
            def launch(*_, **__):
                calls.append(grid)
                raise error

            return launch

    monkeypatch.setattr(kernels, "_rows_kernel", Builder())
    assert_falls_back(warnings, f"its kernel can't be built: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert len(calls) == 1, "a build that failed is not tried at each step"


@needs_interpreter
def test_input_that_the_kernel_does_not_serve(warnings):
    assert_falls_back(warnings, "float64", KDLoss(), dtype=torch.float64)  # test_dispatch.py has the other reasons


@needs_interpreter
def test_memory_that_runs_out_is_no_fault_of_the_kernel(warnings, monkeypatch):
    import rekd_det.models.losses.kernels.triton as kernels

    def launch(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernels, "_launch", launch)
    with pytest.raises(torch.OutOfMemoryError):
        trained(ReKDLoss(top_k=2))


@needs_interpreter
@pytest.mark.parametrize(
    ("loss", "kwargs"),
    [
        (ReKDLoss(top_k=2), dict(weight=torch.rand(6))),
        (ReKDLoss(top_k=2, activation="sigmoid", tisd="split"), {}),
        (DKDLoss(activation="implicit_bg"), dict(gt_labels=torch.arange(6))),
        (KDLoss(tau=2.0), dict(dtype=torch.bfloat16)),
    ],
)
def test_kernel_that_is_right_is_taken_and_checked_once(warnings, monkeypatch, loss, kwargs):
    checked = []
    compare = dispatch.compare
    monkeypatch.setattr(dispatch, "compare", lambda *args: (checked.append(1), compare(*args)))
    got = [trained(loss, **kwargs) for _ in range(2)]
    assert checked == [1]
    assert not warnings
    loss.backend = "eager"
    for a, b in zip(got[1], trained(loss, **kwargs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


@needs_interpreter
@pytest.mark.parametrize("what", ["value", "gradient", "recomputed gradient"])
def test_kernel_that_is_wrong_is_an_error_that_names_both(warnings, monkeypatch, what):
    import rekd_det.models.losses.kernels.triton as kernels

    right = kernels._launch

    def wrong(inputs, spec, coef, upstream, grad, with_sums):
        sums = right(inputs, spec, coef, upstream, grad, with_sums)
        if what == "value" and with_sums:
            sums[0, 3] += 1.0
        if what == "gradient" and with_sums and grad is not None:
            grad[5] *= -1
        if what == "recomputed gradient" and upstream is not None and len(set(upstream.tolist())) > 1:
            grad[5] *= -1
        return sums

    monkeypatch.setattr(kernels, "_launch", wrong)
    with pytest.raises(WrongKernel, match=r"triton gives \S+ where eager gives \S+.*backend='eager'"):
        trained(ReKDLoss(top_k=2))


@needs_interpreter
def test_the_check_leaves_random_numbers_alone(warnings):
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    trained(ReKDLoss(top_k=2))
    assert torch.equal(torch.rand(4), want)
