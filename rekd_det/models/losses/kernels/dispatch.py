"""The choice of the implementation of a loss: by argument, device and size."""

from __future__ import annotations

import functools
import importlib.util
import logging

import torch
from mmengine.logging import print_log
from torch import Tensor

from rekd_det.models.losses.kernels.function import Engine, LossInputs
from rekd_det.models.losses.kernels.fused import FusedEngine
from rekd_det.models.losses.kernels.self_check import WrongKernel, compare
from rekd_det.models.losses.kernels.spec import KDSpec

BACKENDS = ("auto", "eager", "fused", "triton")

#: the engine that 'auto' takes on a kind of device; 'eager' on any other
FASTEST = {"cpu": "fused", "cuda": "triton"}

#: limit of the Triton kernel's loop over the head
TRITON_MAX_K = 16
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_backend(owner: str, backend: str, reduction: str, spec: KDSpec | None) -> None:
    """Raise if a backend that was asked for by name can't serve a loss, whatever its input.

    Args:
        owner: class name for the message.
        backend: one of :data:`BACKENDS`.
        reduction: the loss's reduction.
        spec: the loss's description, or None for one that has only an eager formulation.

    Raises:
        ValueError: if the loss has no fused form.
        ImportError: if 'triton' is asked for and not installed.
    """
    if backend in ("auto", "eager"):
        return
    if spec is None or reduction == "none":
        what = "a loss without kernel_spec()" if spec is None else "reduction='none'"
        raise ValueError(f"{owner}: {what} has no fused form, so backend must be 'auto' or 'eager', got {backend!r}")
    if backend == "triton" and not _has_triton():
        raise ImportError(f"{owner}: backend='triton' needs the package triton; install it, or use backend='auto'")


def choose(
    backend: str, student: Tensor, teacher: Tensor, weight: Tensor | None, reduction: str, spec: KDSpec | None
) -> str:
    """The backend that computes this input: 'eager', 'fused' or 'triton'.

    'auto' takes the fastest that can: 'fused' on CPU; on a GPU 'triton' where it is installed and builds and the rows
    fit; 'eager' for everything else. What is given up on a GPU is said once in the log. A kernel's first use on a GPU
    compares it with the eager formulation on a few rows (see :mod:`~rekd_det.models.losses.kernels.self_check`).

    Args:
        backend: what was asked for, one of :data:`BACKENDS`.
        student: ``(N, C)`` logits.
        teacher: ``(N, C)`` logits.
        weight: ``(N,)`` or None.
        reduction: the loss's reduction.
        spec: the loss's description, or None.

    Raises:
        ValueError: if 'triton' was asked for by name and can't serve these tensors; the message says why.
        WrongKernel: if a kernel computes something else than the eager formulation.
    """
    if backend != "auto":
        if backend == "triton" and spec is not None:
            reason = _why_not_triton(student, teacher, spec)
            if reason:
                raise ValueError(f"backend='triton' can't compute this loss: {reason}; use backend='auto'")
        return backend
    if spec is None or reduction == "none" or (weight is not None and weight.requires_grad):
        return "eager"
    # A compiler fuses the eager formulation itself, and can't look into an autograd node.
    if torch.compiler.is_compiling():
        return "eager"
    fastest = FASTEST.get(student.device.type, "eager")
    if fastest == "triton":
        reason = _why_not_built(student, teacher, weight, spec)
        if reason:
            _tell_once(reason)
            return "eager"
    return fastest


def engine(name: str) -> Engine:
    """The engine for 'fused' or 'triton'."""
    if name == "triton":
        from rekd_det.models.losses.kernels.triton import TritonEngine

        return TritonEngine()
    return FusedEngine()


#: why a kernel can't be used, or '' if it can; by its compile-time constants
_BUILT: dict[tuple, str] = {}
_TOLD: set[str] = set()


def _why_not_built(student: Tensor, teacher: Tensor, weight: Tensor | None, spec: KDSpec) -> str:
    """Build and compare a kernel when it is first requested; the result is kept."""
    key = (spec, student.device, student.dtype, teacher.dtype, student.shape[1], weight is not None)
    if key not in _BUILT:
        _BUILT[key] = _build(student, teacher, weight, spec)
    return _BUILT[key]


def _build(student: Tensor, teacher: Tensor, weight: Tensor | None, spec: KDSpec) -> str:
    if not _has_triton():
        return "triton is not installed"
    try:
        reason = _why_not_triton(student, teacher, spec)
        if not reason:
            compare(engine("triton"), "triton", spec, student, teacher, weight is not None)
        return reason
    except (WrongKernel, torch.OutOfMemoryError):
        raise
    except Exception as error:  # no compiler, a compiler's own error, a driver too old: exceptions of all kinds
        lines = str(error).strip().splitlines() or [""]
        return f"its kernel can't be built: {type(error).__name__}: {lines[0]}"


def _tell_once(reason: str) -> None:
    if reason not in _TOLD:
        _TOLD.add(reason)
        print_log(
            f"the distillation loss runs in plain torch, which is slower and needs more memory, because {reason}",
            logger="current",
            level=logging.WARNING,
        )


@functools.lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _why_not_triton(student: Tensor, teacher: Tensor, spec: KDSpec) -> str:
    from rekd_det.models.losses.kernels.triton import INTERPRETED, MAX_WIDTH, fits

    rows = LossInputs(student, teacher, None, None)
    if student.device.type != "cuda" and not INTERPRETED:
        return f"its tensors are on {student.device}"
    if student.dtype not in TRITON_DTYPES or teacher.dtype not in TRITON_DTYPES or rows.dtype != torch.float32:
        return f"the logits are {student.dtype} and {teacher.dtype}, not fp32, bf16 or fp16"
    if spec.top_k > TRITON_MAX_K:
        return f"top_k={spec.top_k} is greater than {TRITON_MAX_K}"
    if not fits(spec, student.shape[1]):
        return f"{student.shape[1]} logits per row do not fit into {MAX_WIDTH}"
    return ""
