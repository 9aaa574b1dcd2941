"""Losses and closed-form gradients in one Triton kernel: a row is read once, kept in registers, and written once.

Shape legend: ``N`` rows, ``C`` logits, ``K`` head size, ``J`` named parts. In the kernel a tile is
``(STEPS, ROWS, LANES)``: a row's columns, ``STEPS * LANES`` of them, the power of two at or above C (or C + 1 with an
implicit background). Row quantities are ``(ROWS,)``.

Column ``step * LANES + lane``: the steps of a row lie in the registers of one thread, so a reduction over a row adds up
inside the thread first and then shuffles between the few threads that share the row. How many those are, and with that
the registers of a thread, is what :func:`tile` decides; ``tools/benchmark/kernel_resources.py`` shows what a compiler
makes of it, without a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rekd_det.models.losses.functional import RARE, adaptive_k
from rekd_det.models.losses.kernels.function import LossInputs, computes_early
from rekd_det.models.losses.kernels.spec import KDSpec

_MASKED = tl.constexpr(-1.0e9)
# Below every logit, masked ones included.
_OUT = tl.constexpr(-4.0e9)
_RARE = tl.constexpr(RARE[torch.float32])
# Programs in the grid at most; each strides over the rows. Bounds the partial sums that remain to be added up.
_MAX_PROGRAMS = 4096
_SCALE_BLOCK = 2048
_SELECT = {"none": 0, "teacher": 1, "student": 2, "target": 3}


@triton.jit
def _log_ratio(a, b):
    """log((1 + a) / (1 + b)) for a, b in [0, 1], by 2 atanh(z); tl.log(1 + a) loses every digit of a small a."""
    z = (a - b) / (2.0 + a + b)
    w = z * z
    series = 1.0 / 15.0
    series = series * w + 1.0 / 13.0
    series = series * w + 1.0 / 11.0
    series = series * w + 1.0 / 9.0
    series = series * w + 1.0 / 7.0
    series = series * w + 1.0 / 5.0
    series = series * w + 1.0 / 3.0
    series = series * w + 1.0
    return 2.0 * z * series


@triton.jit
def _none_to_some(x):
    """1 - exp(-x) for x >= 0, to the last digits also where x is small."""
    series = 1.0 / 362880.0
    series = 1.0 / 40320.0 - x * series
    series = 1.0 / 5040.0 - x * series
    series = 1.0 / 720.0 - x * series
    series = 1.0 / 120.0 - x * series
    series = 1.0 / 24.0 - x * series
    series = 1.0 / 6.0 - x * series
    series = 0.5 - x * series
    series = 1.0 - x * series
    return tl.where(x < 0.5, x * series, 1.0 - tl.exp(-x))


@triton.jit
def _bernoulli(t_odds, s_odds):
    """Of Bernoullis with these log-odds: their KL, the teacher's probability, and the teacher's less the student's."""
    # From the side where the teacher's probability is at most a half: see _bernoulli of the fused engine.
    side = tl.where(t_odds > 0, -1.0, 1.0)
    t = t_odds * side
    s = s_odds * side
    e_t = tl.exp(t)
    e_s = tl.exp(-tl.abs(s))
    rest_t = 1.0 / (1.0 + e_t)
    p = e_t * rest_t
    # As p is computed, to the last bit: equal logits have no gradient.
    q = tl.where(s > 0, 1.0, e_s) * (1.0 / (1.0 + e_s))
    kl = p * (t - s) + tl.where(s > 0, s, 0.0) + _log_ratio(e_s, e_t)
    return kl, tl.where(side < 0, rest_t, p), (p - q) * side


@triton.jit
def _sum(x):
    """``(STEPS, ROWS, LANES)`` to ``(ROWS,)``: first inside a thread, then across threads."""
    return tl.sum(tl.sum(x, 0), 1)


@triton.jit
def _max(x):
    return tl.max(tl.max(x, 0), 1)


@triton.jit
def _min(x):
    return tl.min(tl.min(x, 0), 1)


@triton.jit
def _wide(x):
    """``(ROWS,)`` to a shape that broadcasts over a tile."""
    return x[None, :, None]


@triton.jit
def _mass(x, SIGMOID: tl.constexpr):
    """What a category holds of a row's mass, up to a factor of the row."""
    if SIGMOID:
        e = tl.exp(-tl.abs(x))
        mass = tl.where(x > 0, 1.0, e) / (1.0 + e)
    else:
        mass = tl.exp(x)
    return mass


@triton.jit
def _all_equal(upstream_ptr, J: tl.constexpr):
    first = tl.load(upstream_ptr)
    different = 0
    for j in tl.static_range(1, J):
        different = different + (tl.load(upstream_ptr + j) != first).to(tl.int32)
    return different == 0


@triton.jit(do_not_specialize=["num_rows", "skip"])
def _rows_kernel(
    student_ptr,
    teacher_ptr,
    label_ptr,
    weight_ptr,
    coef_ptr,
    upstream_ptr,
    grad_ptr,
    sums_ptr,
    num_rows,
    num_logits,
    student_row,
    teacher_row,
    tau,
    gamma,
    share,
    skip,
    J: tl.constexpr,
    SELECT: tl.constexpr,
    K: tl.constexpr,
    SHARE: tl.constexpr,
    SKIP: tl.constexpr,
    SIGMOID: tl.constexpr,
    CHAIN: tl.constexpr,
    BACKGROUND: tl.constexpr,
    GAMMA: tl.constexpr,
    WEIGHT: tl.constexpr,
    GRAD: tl.constexpr,
    SUMS: tl.constexpr,
    UNLESS_EQUAL: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Sums of the terms (SUMS) and their gradient (GRAD) over the rows of this program.

    SHARE: of the K largest, take those that it takes to hold ``share`` of the mass. SKIP: never take column ``skip``.
    CHAIN: split a sigmoid head by the chain rule. UNLESS_EQUAL: do nothing where all J upstream gradients are equal;
    the device decides, so the host need not wait.
    """
    COLS: tl.constexpr = STEPS * LANES
    pid = tl.program_id(0)
    end = num_rows
    if UNLESS_EQUAL:
        end = tl.where(_all_equal(upstream_ptr, J), 0, num_rows)
    cols = tl.arange(0, STEPS)[:, None, None] * LANES + tl.arange(0, LANES)[None, None, :]
    stored = cols < num_logits
    valid = cols < num_logits + BACKGROUND
    c_mass = tl.load(coef_ptr)
    c_head = tl.load(coef_ptr + 1)
    c_joint = tl.load(coef_ptr + 2)
    c_tail = tl.load(coef_ptr + 3)
    sum_mass = tl.zeros((ROWS,), tl.float32)
    sum_head = tl.zeros((ROWS,), tl.float32)
    sum_joint = tl.zeros((ROWS,), tl.float32)
    sum_tail = tl.zeros((ROWS,), tl.float32)
    sum_p = tl.zeros((ROWS,), tl.float32)
    per_tau = 1.0 / tau

    for start in range(pid * ROWS, end, tl.num_programs(0) * ROWS):
        rows = start + tl.arange(0, ROWS)
        row_ok = rows < num_rows
        # N * C may pass 2**31.
        rows = rows.to(tl.int64)
        inside = _wide(row_ok) & stored
        s = tl.load(_wide(student_ptr + rows * student_row) + cols, mask=inside, other=0.0).to(tl.float32)
        t = tl.load(_wide(teacher_ptr + rows * teacher_row) + cols, mask=inside, other=0.0).to(tl.float32)
        s_masked = s < _MASKED
        # Not maximum(): that would swallow a NaN.
        s = tl.where(s_masked, _MASKED, s)
        t = tl.where(t < _MASKED, _MASKED, t)
        row_weight = row_ok.to(tl.float32)
        if WEIGHT:
            row_weight = tl.load(weight_ptr + rows, mask=row_ok, other=0.0).to(tl.float32)
        mass_weight = row_weight

        head = (cols < 0) & _wide(row_ok)
        if SELECT == 3:
            label = tl.load(label_ptr + rows, mask=row_ok, other=-1)
            known = (label >= 0) & (label < num_logits + BACKGROUND)
            row_weight = tl.where(known, row_weight, 0.0)
            label = tl.where(known, label, 0).to(tl.int32)
            head = cols == _wide(label)
        elif SELECT > 0:
            rest = tl.where(valid, t if SELECT == 1 else s, _OUT)
            if SKIP:
                rest = tl.where(cols == skip, _MASKED, rest)
            if SHARE:
                first = tl.zeros((ROWS,), tl.float32)
                if not SIGMOID:
                    first = _max(rest)
                held = tl.zeros((ROWS,), tl.float32)
                enough = tl.where(valid, _mass((rest - _wide(first)) * per_tau, SIGMOID), 0.0)
                enough = share * _sum(enough)
            for i in range(K):
                best = _max(rest)
                at = _min(tl.where(rest == _wide(best), cols, COLS))
                if SHARE:
                    at = tl.where((held < enough) | (i == 0), at, COLS)
                    held += _mass((best - first) * per_tau, SIGMOID)
                rest = tl.where(cols == _wide(at), _OUT, rest)
            head = valid & (rest == _OUT)
        tail = valid & (head == 0)
        by_tau = row_weight * per_tau

        if CHAIN:
            t_top = _max(tl.where(tail, t, _OUT))
            s_top = _max(tl.where(tail, s, _OUT))
            tail_alive = (t_top > 0.5 * _MASKED).to(tl.float32)
            # A tail whose categories are all rare is shifted up, where nothing underflows: see the oracle.
            t_shift = _RARE - t_top * per_tau
            s_shift = _RARE - s_top * per_tau
            t_shift = tl.where(t_shift > 0, t_shift, 0.0)
            s_shift = tl.where(s_shift > 0, s_shift, 0.0)
            t = t * per_tau
            s = s * per_tau
            apart = t - s
            t = t + tl.where(head, 0.0, _wide(t_shift))
            s = s + tl.where(head, 0.0, _wide(s_shift))
            e_t = tl.exp(-tl.abs(t))
            e_s = tl.exp(-tl.abs(s))
            plus_t = _log_ratio(e_t, 0.0)
            plus_s = _log_ratio(e_s, 0.0)
            r_t = 1.0 / (1.0 + e_t)
            r_s = 1.0 / (1.0 + e_s)
            # Bernoullis of the head, from the side where the teacher's probability is at most a half.
            flip = tl.where(t > 0, -1.0, 1.0)
            s_side = s * flip
            p = e_t * r_t
            kl = p * apart * flip + tl.where(s_side > 0, s_side, 0.0) + (plus_s - plus_t)
            kl_head = _sum(tl.where(head, kl, 0.0))
            if GRAD:
                q = tl.where(s_side > 0, 1.0, e_s) * r_s
                grad = (q - p) * flip * _wide(by_tau * c_head)
            # The bucket "some category of the tail".
            p = tl.where(t > 0, 1.0, e_t) * r_t
            q = tl.where(s > 0, 1.0, e_s) * r_s
            none_t = _sum(tl.where(tail, plus_t + tl.where(t > 0, t, 0.0), 0.0))
            none_s = _sum(tl.where(tail, plus_s + tl.where(s > 0, s, 0.0), 0.0))
            some_t = _none_to_some(none_t)
            some_s = _none_to_some(none_s)
            some_t = tl.where(some_t < 1.0e-30, 1.0e-30, some_t)
            some_s = tl.where(some_s < 1.0e-30, 1.0e-30, some_s)
            t_odds = tl.log(some_t) + none_t - t_shift
            s_odds = tl.log(some_s) + none_s - s_shift
            kl_mass, _, gap = _bernoulli(t_odds, s_odds)
            top_total = _sum(tl.where(head, p, 0.0))
            total = top_total + _sum(tl.where(tail, p, 0.0)) * tl.exp(-t_shift)
            mass = top_total / tl.where(total > 1e-12, total, 1e-12)
            kl_tail = (_sum(tl.where(tail, p * apart, 0.0)) / some_t - t_odds + s_odds) * tail_alive
            if GRAD:
                on_tail = by_tau * c_tail * tail_alive
                on_some = on_tail - by_tau * c_mass * gap
                grad = tl.where(head, grad, q * _wide(on_some / some_s) - p * _wide(on_tail / some_t))
        elif SIGMOID:
            if GAMMA:
                e_t = tl.exp(-tl.abs(t))
                e_s = tl.exp(-tl.abs(s))
                p_t = tl.where(t > 0, 1.0, e_t) / (1.0 + e_t)
                p_s = tl.where(s > 0, 1.0, e_s) / (1.0 + e_s)
                apart = tl.abs(p_t - p_s)
                factor = tl.where(apart > 0, tl.exp(gamma * tl.log(tl.where(apart > 0, apart, 1.0))), 0.0)
            kl, p, gap = _bernoulli(t * per_tau, s * per_tau)
            if GAMMA:
                kl = kl * factor
            kl_mass = tl.zeros((ROWS,), tl.float32)
            kl_head = _sum(tl.where(head, kl, 0.0))
            kl_tail = _sum(tl.where(tail, kl, 0.0))
            total = _sum(tl.where(valid, p, 0.0))
            mass = _sum(tl.where(head, p, 0.0)) / tl.where(total > 1e-12, total, 1e-12)
            if GRAD:
                grad = -gap * tl.where(head, _wide(by_tau * c_head), _wide(by_tau * c_tail))
                if GAMMA:
                    grad = grad * factor
        else:
            # Top-K set and tail are shifted by their own maxima, so that neither underflows.
            t_top = _max(tl.where(tail, t, _OUT))
            s_top = _max(tl.where(tail, s, _OUT))
            t_top_head = _max(tl.where(head, t, _OUT))
            s_top_head = _max(tl.where(head, s, _OUT))
            tail_alive = (t_top > 0.5 * _MASKED).to(tl.float32)
            head_alive = (t_top_head > 0.5 * _MASKED).to(tl.float32)
            t = (t - tl.where(head, _wide(t_top_head), _wide(t_top))) * per_tau
            s = (s - tl.where(head, _wide(s_top_head), _wide(s_top))) * per_tau
            e_t = tl.exp(tl.where(valid, t, _OUT))
            e_s = tl.exp(tl.where(valid, s, _OUT))
            z_t = _sum(tl.where(tail, e_t, 0.0))
            z_s = _sum(tl.where(tail, e_s, 0.0))
            log_z_t = tl.log(z_t)
            log_z_s = tl.log(z_s)
            kl = e_t * (t - s)
            kl_tail = _sum(tl.where(tail, kl, 0.0)) / z_t - log_z_t + log_z_s
            kl_tail = kl_tail * tail_alive
            if K == 0:
                kl_mass = tl.zeros((ROWS,), tl.float32)
                kl_head = kl_mass
                mass = kl_mass
                if GRAD:
                    on_tail = by_tau * c_tail * tail_alive
                    grad = e_s * _wide(on_tail / z_s) - e_t * _wide(on_tail / z_t)
            else:
                z_t_head = _sum(tl.where(head, e_t, 0.0))
                z_s_head = _sum(tl.where(head, e_s, 0.0))
                log_z_t_head = tl.log(z_t_head)
                log_z_s_head = tl.log(z_s_head)
                kl_head = _sum(tl.where(head, kl, 0.0)) / z_t_head - log_z_t_head + log_z_s_head
                kl_head = kl_head * head_alive
                # log-odds of the head's mass; log P = -softplus(-odds)
                t_odds = (t_top_head - t_top) * per_tau + log_z_t_head - log_z_t
                s_odds = (s_top_head - s_top) * per_tau + log_z_s_head - log_z_s
                kl_mass, mass, gap = _bernoulli(t_odds, s_odds)
                if GRAD:
                    on_mass = by_tau * c_mass * gap
                    on_head = by_tau * (c_head + c_joint * mass) * head_alive
                    on_tail = by_tau * c_tail * tail_alive
                    on_s = tl.where(head, _wide((on_head - on_mass) / z_s_head), _wide((on_tail + on_mass) / z_s))
                    on_t = tl.where(head, _wide(on_head / z_t_head), _wide(on_tail / z_t))
                    grad = e_s * on_s - e_t * on_t

        if GRAD:
            grad = tl.where(s_masked, 0.0, grad)
            tl.store(_wide(grad_ptr + rows * num_logits) + cols, grad, mask=inside)
        if SUMS:
            sum_mass += tl.where(row_ok, kl_mass * row_weight, 0.0)
            sum_head += tl.where(row_ok, kl_head * row_weight, 0.0)
            sum_joint += tl.where(row_ok, mass * kl_head * row_weight, 0.0)
            sum_tail += tl.where(row_ok, kl_tail * row_weight, 0.0)
            sum_p += tl.where(row_ok, mass * mass_weight, 0.0)

    if SUMS:
        tl.store(sums_ptr + pid * 5, tl.sum(sum_mass, 0))
        tl.store(sums_ptr + pid * 5 + 1, tl.sum(sum_head, 0))
        tl.store(sums_ptr + pid * 5 + 2, tl.sum(sum_joint, 0))
        tl.store(sums_ptr + pid * 5 + 3, tl.sum(sum_tail, 0))
        tl.store(sums_ptr + pid * 5 + 4, tl.sum(sum_p, 0))


@triton.jit(do_not_specialize=["numel"])
def _scale_kernel(grad_ptr, upstream_ptr, factor_ptr, numel, J: tl.constexpr, BLOCK: tl.constexpr):
    """``grad *= factor`` where all upstream gradients are equal; touches no memory where the factor is 1."""
    factor = tl.load(factor_ptr)
    idle = (_all_equal(upstream_ptr, J) == 0) | (factor == 1.0)
    end = tl.where(idle, 0, numel)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    for start in range(first, end, tl.num_programs(0).to(tl.int64) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < numel
        x = tl.load(grad_ptr + at, mask=inside).to(tl.float32)
        tl.store(grad_ptr + at, x * factor, mask=inside)


#: whether kernels run in Triton's interpreter, on CPU tensors (a debugging aid of Triton itself)
INTERPRETED = not isinstance(_rows_kernel, triton.JITFunction)

#: the most logits per row, an implicit background included: at 4096 three variants of the kernel spilled
MAX_WIDTH = 2048

#: Compiler options besides the number of warps. Without fused multiply-adds equal logits have a gradient of exactly 0.
OPTIONS = {"enable_fp_fusion": False}


def fits(spec: KDSpec, num_logits: int) -> bool:
    """Whether a row fits into the registers of one program."""
    return num_logits + (spec.activation == "implicit_bg") <= MAX_WIDTH


class Tile(NamedTuple):
    """The layout of rows in a program: constants of the kernel and its number of warps."""

    steps: int
    rows: int
    lanes: int
    warps: int


def tile(spec: KDSpec, num_logits: int, itemsize: int) -> Tile:
    """The tile that keeps every variant below 128 registers per thread without a spill, as few threads to a row.

    Args:
        spec: the loss.
        num_logits: C.
        itemsize: bytes of one of the student's logits.
    """
    cols = max(16, triton.next_power_of_2(num_logits + (spec.activation == "implicit_bg")))
    # Sigmoid terms need more registers for each element, and have fewer sums that a row's threads must share.
    per_thread = 4 if spec.activation == "sigmoid" else 8
    threads = max(4, cols // per_thread)
    # Adjacent columns of a thread: 16 bytes where rows start at multiples of 16 elements, which Triton looks at. Eight
    # of them in a row of 2048 halves spilled 8 bytes.
    most = 4 if cols > 1024 else 8
    adjacent = min(16 // itemsize, cols // threads, most) if num_logits % 16 == 0 else 1
    lanes = threads * adjacent
    return Tile(cols // lanes, max(1, 32 // threads), lanes, max(1, threads // 32))


def constants(
    spec: KDSpec, num_logits: int, at: Tile, weighted: bool, grad: bool, sums: bool, unless_equal: bool
) -> dict[str, object]:
    """The kernel's constants: what is compiled anew for each of their values."""
    width = num_logits + (spec.activation == "implicit_bg")
    return dict(
        J=len(spec.parts),
        SELECT=_SELECT[spec.select],
        K=spec.top_k if spec.share is None else adaptive_k(spec.top_k, width),
        SHARE=spec.share is not None,
        SKIP=spec.background is not None,
        SIGMOID=spec.activation == "sigmoid",
        CHAIN=spec.activation == "sigmoid" and spec.select != "none" and not spec.tail_sum,
        BACKGROUND=int(spec.activation == "implicit_bg"),
        GAMMA=spec.gamma > 0,
        WEIGHT=weighted,
        GRAD=grad,
        SUMS=sums,
        UNLESS_EQUAL=unless_equal,
        STEPS=at.steps,
        ROWS=at.rows,
        LANES=at.lanes,
    )


class TritonEngine:
    """Forward computes the gradient for equal upstream gradients; backward rescales it, or computes it afresh.

    The device decides which: no step waits for it.
    """

    def forward(
        self, inputs: LossInputs, spec: KDSpec, scale: float | Tensor, with_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        early = with_grad and computes_early(inputs)
        grad = torch.empty_like(inputs.student, memory_format=torch.contiguous_format) if early else None
        matrix = spec.matrix(inputs.student.device)
        coef = matrix.sum(0) * scale
        partial = _launch(inputs, spec, coef, None, grad, with_sums=True)
        assert partial is not None
        sums = partial.sum(0)
        return (matrix * sums[:4]).sum(1) * scale, sums[4], grad

    def backward(
        self, inputs: LossInputs, spec: KDSpec, scale: float | Tensor, upstream: Tensor, buffer: Tensor | None
    ) -> Tensor:
        upstream = upstream.contiguous()
        coef = (upstream[:, None] * spec.matrix(upstream.device)).sum(0) * scale
        if buffer is None:
            grad = torch.empty_like(inputs.student, memory_format=torch.contiguous_format)
            _launch(inputs, spec, coef, None, grad, with_sums=False)
            return grad
        if buffer.numel():
            factor = upstream[0]
            programs = min(triton.cdiv(buffer.numel(), _SCALE_BLOCK), _MAX_PROGRAMS)
            with torch.cuda.device_of(buffer):
                _scale_kernel[(programs,)](
                    buffer, upstream, factor, buffer.numel(), J=len(spec.parts), BLOCK=_SCALE_BLOCK
                )
        if len(spec.parts) > 1:
            _launch(inputs, spec, coef, upstream, buffer, with_sums=False)
        return buffer


def _launch(
    inputs: LossInputs, spec: KDSpec, coef: Tensor, upstream: Tensor | None, grad: Tensor | None, with_sums: bool
) -> Tensor | None:
    """Run the kernel over all rows; the sums of each program ``(programs, 5)`` if asked for.

    With ``upstream`` the kernel leaves ``grad`` as it is where all of ``upstream`` are equal.
    """
    # Columns of a row must be adjacent; rows may lie apart.
    student, teacher = (x if x.stride(1) == 1 else x.contiguous() for x in (inputs.student, inputs.teacher))
    num_rows, num_logits = student.shape
    at = tile(spec, num_logits, student.element_size())
    # Like an index of Python: -1 is the last column, the implicit background where there is one.
    skip = (spec.background or 0) % (num_logits + (spec.activation == "implicit_bg"))
    programs = min(triton.cdiv(num_rows, at.rows), _MAX_PROGRAMS)
    sums = torch.empty(programs, 5, device=student.device) if with_sums else None
    if programs:
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device_of(student):
            _rows_kernel[(programs,)](
                student,
                teacher,
                student if inputs.labels is None else inputs.labels.contiguous(),
                student if inputs.weight is None else inputs.weight.contiguous(),
                coef,
                coef if upstream is None else upstream,
                student if grad is None else grad,
                coef if sums is None else sums,
                num_rows,
                num_logits,
                student.stride(0),
                teacher.stride(0),
                spec.tau,
                spec.gamma,
                spec.share or 0.0,
                skip,
                **constants(
                    spec, num_logits, at, inputs.weight is not None, grad is not None, with_sums, upstream is not None
                ),
                num_warps=at.warps,
                **OPTIONS,
            )
    return sums
