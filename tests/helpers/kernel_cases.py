"""The losses, backends and comparisons that the kernel tests share."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from rekd_det.models.losses import DKDLoss, GDKDLoss, KDLoss, LogitLoss, NTIDLoss, ReKDLoss, TISDLoss

ON_GPU = torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec("triton") is not None

#: where each backend is tested: (backend, device)
BACKENDS = [
    pytest.param(("fused", "cpu"), id="fused"),
    pytest.param(
        ("fused", "cuda"),
        id="fused-gpu",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")],
    ),
    pytest.param(
        ("triton", "cuda" if ON_GPU else "cpu"),
        id="triton",
        marks=pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed"),
    ),
]

#: class and options, one for every path through the kernels
LOSSES = [
    (KDLoss, dict(tau=2.5)),
    (KDLoss, dict(activation="implicit_bg")),
    (KDLoss, dict(activation="sigmoid")),
    (DKDLoss, dict(alpha=0.7, beta=2.0, tau=2.5)),
    (DKDLoss, dict(activation="implicit_bg")),
    (GDKDLoss, dict(top_k=3)),
    (GDKDLoss, dict(top_k=3, activation="implicit_bg", tau=0.5)),
    (ReKDLoss, dict(top_k=5, alpha=1.3, beta=0.4)),
    (ReKDLoss, dict(top_k=1, tau=4.0)),
    (ReKDLoss, dict(top_k=2, select_by="student")),
    (ReKDLoss, dict(top_k=3, activation="implicit_bg")),
    (ReKDLoss, dict(top_k=3, tisd="within", mass_weight=0.3)),
    (ReKDLoss, dict(top_k=3, tisd="within")),
    (ReKDLoss, dict(top_k=3, activation="sigmoid", tau=2.5)),
    (ReKDLoss, dict(top_k=2, activation="sigmoid", tisd="within", select_by="student")),
    (ReKDLoss, dict(top_k=2, activation="sigmoid", tisd="within", mass_weight=0.3)),
    (ReKDLoss, dict(top_k=3, activation="sigmoid", tisd="split", tau=2.5)),
    (ReKDLoss, dict(top_k=3, activation="sigmoid", tisd="split", gamma=1.0, select_by="student")),
    (ReKDLoss, dict(top_k=3, activation="sigmoid", tisd="split", gamma=1.7, tau=0.5)),
    (ReKDLoss, dict(top_k=0.8)),
    (ReKDLoss, dict(top_k=0.8, tisd="within", select_by="student", tau=2.0)),
    (ReKDLoss, dict(top_k=0.6, activation="sigmoid")),
    (ReKDLoss, dict(top_k=0.6, activation="sigmoid", tisd="split", gamma=1.0)),
    (ReKDLoss, dict(top_k=3, activation="implicit_bg", foreground_only=True)),
    (ReKDLoss, dict(top_k=0.8, activation="implicit_bg", foreground_only=True)),
    (TISDLoss, dict(top_k=3, loss_weight=2.0)),
    (NTIDLoss, dict(top_k=3, loss_weight=2.0)),
]
LOSS_IDS = [f"{cls.__name__}-{'-'.join(str(v) for v in options.values())}" for cls, options in LOSSES]


def logits(rows: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Student's and teacher's ``(rows, classes)`` logits, of the spread that trained heads show."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 3
    teacher = student + torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 2
    return student.to(dtype), teacher.to(dtype)


def run(
    loss: LogitLoss,
    student: Tensor,
    teacher: Tensor,
    upstream: tuple[float, ...] = (1.0, 1.0, 1.0),
    device: str = "cpu",
    **kwargs,
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses and statistics, and the student's gradient where part j has the upstream gradient ``upstream[j]``."""
    leaf = student.detach().to(device).requires_grad_()
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    parts, statistics = loss.components(leaf, teacher.to(device), **moved)
    total = sum(u * part for u, part in zip(upstream, parts.values(), strict=False))
    (grad,) = torch.autograd.grad(total, leaf)
    return {k: v.detach().cpu() for k, v in (parts | statistics).items()}, grad.cpu()


def assert_equals_oracle(
    cls: type[LogitLoss],
    options: dict,
    backend: tuple[str, str],
    student: Tensor,
    teacher: Tensor,
    grad_rtol: float = 1e-5,
    **kwargs,
) -> None:
    """Components and gradient of a backend agree with the eager formulation in fp64 on the same numbers."""
    name, device = backend
    kwargs64 = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in kwargs.items()}
    want, want_grad = run(cls(backend="eager", **options), student.double(), teacher.double(), **kwargs64)
    got, got_grad = run(cls(backend=name, **options), student, teacher, device=device, **kwargs)
    assert got.keys() == want.keys()
    for key, value in want.items():
        torch.testing.assert_close(got[key].double(), value.double(), rtol=1e-5, atol=1e-7, msg=f"{key}")
    assert got_grad.dtype == student.dtype
    scale = float(want_grad.abs().max()) if want_grad.numel() else 0.0
    torch.testing.assert_close(got_grad.double(), want_grad, rtol=0.0, atol=grad_rtol * scale)
