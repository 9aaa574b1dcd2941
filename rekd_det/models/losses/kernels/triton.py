"""Losses and closed-form gradients in one Triton kernel: a row is read once, kept in registers, and written once.

Shape legend: ``N`` rows, ``C`` logits, ``K`` head size, ``J`` named parts. In the kernel a tile is ``(ROWS, COLS)``
with COLS the power of two at or above C (or C + 1 with an implicit background); row quantities are ``(ROWS,)``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from rekd_det.models.losses.kernels.function import Rows
from rekd_det.models.losses.kernels.spec import KDSpec

_MASKED = tl.constexpr(-1.0e9)
# Below every logit, masked ones included.
_OUT = tl.constexpr(-4.0e9)
# Programs in the grid at most; each strides over the rows. Bounds the partial sums that remain to be added up.
_MAX_PROGRAMS = 4096
_TILE = 2048
_SELECT = {"none": 0, "teacher": 1, "student": 2, "target": 3}


@triton.jit
def _log1p(u):
    """log(1 + u) for u in [0, 1] by 2 atanh(u / (2 + u)); tl.log(1 + u) loses every digit of a small u."""
    z = u / (2.0 + u)
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
def _all_equal(upstream_ptr, J: tl.constexpr):
    first = tl.load(upstream_ptr)
    different = 0
    for j in tl.static_range(1, J):
        different = different + (tl.load(upstream_ptr + j) != first).to(tl.int32)
    return different == 0


@triton.jit
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
    student_col,
    teacher_row,
    teacher_col,
    tau,
    gamma,
    J: tl.constexpr,
    SELECT: tl.constexpr,
    K: tl.constexpr,
    SIGMOID: tl.constexpr,
    BACKGROUND: tl.constexpr,
    GAMMA: tl.constexpr,
    WEIGHT: tl.constexpr,
    GRAD: tl.constexpr,
    SUMS: tl.constexpr,
    UNLESS_EQUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Sums of the terms (SUMS) and their gradient (GRAD) over the rows of this program.

    UNLESS_EQUAL: do nothing where all J upstream gradients are equal. The device decides, so the host need not wait.
    """
    pid = tl.program_id(0)
    end = num_rows
    if UNLESS_EQUAL:
        end = tl.where(_all_equal(upstream_ptr, J), 0, num_rows)
    cols = tl.arange(0, COLS)
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

    for start in range(pid * ROWS, end, tl.num_programs(0) * ROWS):
        rows = start + tl.arange(0, ROWS)
        row_ok = rows < num_rows
        # N * C may pass 2**31.
        rows = rows.to(tl.int64)
        inside = row_ok[:, None] & stored[None, :]
        cols64 = cols.to(tl.int64)
        s = tl.load(
            student_ptr + rows[:, None] * student_row + cols64[None, :] * student_col, mask=inside, other=0.0
        ).to(tl.float32)
        t = tl.load(
            teacher_ptr + rows[:, None] * teacher_row + cols64[None, :] * teacher_col, mask=inside, other=0.0
        ).to(tl.float32)
        s_masked = s < _MASKED
        # Not maximum(): that would swallow a NaN.
        s = tl.where(s_masked, _MASKED, s)
        t = tl.where(t < _MASKED, _MASKED, t)
        row_weight = row_ok.to(tl.float32)
        if WEIGHT:
            row_weight = tl.load(weight_ptr + rows, mask=row_ok, other=0.0).to(tl.float32)
        mass_weight = row_weight

        head = (cols[None, :] < 0) & row_ok[:, None]
        if SELECT == 3:
            label = tl.load(label_ptr + rows, mask=row_ok, other=-1)
            known = (label >= 0) & (label < num_logits + BACKGROUND)
            row_weight = tl.where(known, row_weight, 0.0)
            label = tl.where(known, label, 0)
            head = cols64[None, :] == label[:, None]
        elif SELECT > 0:
            rest = tl.where(valid[None, :], t if SELECT == 1 else s, _OUT)
            for _ in tl.static_range(K):
                best = tl.max(rest, 1)
                at = tl.min(tl.where(rest == best[:, None], cols[None, :], COLS), 1)
                hit = cols[None, :] == at[:, None]
                head = head | hit
                rest = tl.where(hit, _OUT, rest)
        tail = valid[None, :] & (head == 0)
        by_tau = row_weight / tau

        if SIGMOID:
            factor = tl.full((ROWS, COLS), 1.0, tl.float32)
            if GAMMA:
                e_t = tl.exp(-tl.abs(t))
                e_s = tl.exp(-tl.abs(s))
                p_t = tl.where(t > 0, 1.0, e_t) / (1.0 + e_t)
                p_s = tl.where(s > 0, 1.0, e_s) / (1.0 + e_s)
                apart = tl.abs(p_t - p_s)
                factor = tl.where(apart > 0, tl.exp(gamma * tl.log(tl.where(apart > 0, apart, 1.0))), 0.0)
            # From the side where the teacher's probability is at most a half: see _sigmoid_block of the fused engine.
            flip = tl.where(t > 0, -1.0, 1.0)
            t = t * flip / tau
            s = s * flip / tau
            e_t = tl.exp(t)
            e_s = tl.exp(-tl.abs(s))
            p = e_t / (1.0 + e_t)
            q = tl.where(s > 0, 1.0, e_s) / (1.0 + e_s)
            kl = p * (t - s) + tl.where(s > 0, s, 0.0) + (_log1p(e_s) - _log1p(e_t))
            kl = kl * factor
            kl_mass = tl.zeros((ROWS,), tl.float32)
            kl_head = tl.sum(tl.where(head, kl, 0.0), 1)
            kl_tail = tl.sum(tl.where(tail, kl, 0.0), 1)
            p = tl.where(flip < 0, 1.0 / (1.0 + e_t), p)
            total = tl.sum(tl.where(valid[None, :], p, 0.0), 1)
            mass = tl.sum(tl.where(head, p, 0.0), 1) / tl.where(total > 1e-12, total, 1e-12)
            if GRAD:
                p = e_t / (1.0 + e_t)
                grad = (q - p) * flip * factor * by_tau[:, None] * tl.where(head, c_head, c_tail)
        else:
            # Head and tail are shifted by their own maxima, so that neither underflows beside the other.
            t_top = tl.max(tl.where(tail, t, _OUT), 1)
            s_top = tl.max(tl.where(tail, s, _OUT), 1)
            t_top_head = tl.max(tl.where(head, t, _OUT), 1)
            s_top_head = tl.max(tl.where(head, s, _OUT), 1)
            tail_alive = (t_top > 0.5 * _MASKED).to(tl.float32)
            head_alive = (t_top_head > 0.5 * _MASKED).to(tl.float32)
            t = (t - tl.where(head, t_top_head[:, None], t_top[:, None])) / tau
            s = (s - tl.where(head, s_top_head[:, None], s_top[:, None])) / tau
            e_t = tl.exp(tl.where(valid[None, :], t, _OUT))
            e_s = tl.exp(tl.where(valid[None, :], s, _OUT))
            z_t = tl.sum(tl.where(tail, e_t, 0.0), 1)
            z_s = tl.sum(tl.where(tail, e_s, 0.0), 1)
            log_z_t = tl.log(z_t)
            log_z_s = tl.log(z_s)
            kl = e_t * (t - s)
            kl_tail = tl.sum(tl.where(tail, kl, 0.0), 1) / z_t - log_z_t + log_z_s
            kl_tail = kl_tail * tail_alive
            if K == 0:
                kl_mass = tl.zeros((ROWS,), tl.float32)
                kl_head = kl_mass
                mass = kl_mass
                if GRAD:
                    on_tail = by_tau * c_tail * tail_alive
                    grad = e_s * (on_tail / z_s)[:, None] - e_t * (on_tail / z_t)[:, None]
            else:
                z_t_head = tl.sum(tl.where(head, e_t, 0.0), 1)
                z_s_head = tl.sum(tl.where(head, e_s, 0.0), 1)
                log_z_t_head = tl.log(z_t_head)
                log_z_s_head = tl.log(z_s_head)
                kl_head = tl.sum(tl.where(head, kl, 0.0), 1) / z_t_head - log_z_t_head + log_z_s_head
                kl_head = kl_head * head_alive
                # log-odds of the head's mass; log P = -softplus(-odds)
                t_odds = (t_top_head - t_top) / tau + log_z_t_head - log_z_t
                s_odds = (s_top_head - s_top) / tau + log_z_s_head - log_z_s
                # A Bernoulli KL again, seen from the side with the smaller teacher's probability.
                side = tl.where(t_odds > 0, -1.0, 1.0)
                t_odds = t_odds * side
                s_odds = s_odds * side
                e_t_odds = tl.exp(t_odds)
                e_s_odds = tl.exp(-tl.abs(s_odds))
                p_side = e_t_odds / (1.0 + e_t_odds)
                q_side = tl.where(s_odds > 0, 1.0, e_s_odds) / (1.0 + e_s_odds)
                kl_mass = p_side * (t_odds - s_odds) + tl.where(s_odds > 0, s_odds, 0.0)
                kl_mass = kl_mass + (_log1p(e_s_odds) - _log1p(e_t_odds))
                mass = tl.where(side < 0, 1.0 / (1.0 + e_t_odds), p_side)
                if GRAD:
                    on_mass = by_tau * c_mass * (p_side - q_side) * side
                    on_head = by_tau * (c_head + c_joint * mass) * head_alive
                    on_tail = by_tau * c_tail * tail_alive
                    on_s = tl.where(
                        head, ((on_head - on_mass) / z_s_head)[:, None], ((on_tail + on_mass) / z_s)[:, None]
                    )
                    on_t = tl.where(head, (on_head / z_t_head)[:, None], (on_tail / z_t)[:, None])
                    grad = e_s * on_s - e_t * on_t

        if GRAD:
            grad = tl.where(s_masked, 0.0, grad)
            tl.store(grad_ptr + rows[:, None] * num_logits + cols64[None, :], grad, mask=inside)
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


@triton.jit
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
INTERPRETED = isinstance(_rows_kernel, InterpretedFunction)


class TritonEngine:
    """Forward computes the gradient for equal upstream gradients; backward rescales it, or computes it afresh.

    The device decides which: no step waits for it.
    """

    def forward(
        self, rows: Rows, spec: KDSpec, scale: float | Tensor, with_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        grad = torch.empty_like(rows.student, memory_format=torch.contiguous_format) if with_grad else None
        matrix = _matrix(spec, rows.student.device)
        coef = matrix.sum(0)
        if _folds(rows):
            coef = coef * scale
        partial = _launch(rows, spec, coef, None, grad, with_sums=True)
        assert partial is not None
        sums = partial.sum(0)
        return (matrix * sums[:4]).sum(1) * scale, sums[4], grad

    def backward(
        self, rows: Rows, spec: KDSpec, scale: float | Tensor, upstream: Tensor, buffer: Tensor | None
    ) -> Tensor:
        upstream = upstream.contiguous()
        coef = (upstream[:, None] * _matrix(spec, upstream.device)).sum(0) * scale
        if buffer is None:
            grad = torch.empty_like(rows.student, memory_format=torch.contiguous_format)
            _launch(rows, spec, coef, None, grad, with_sums=False)
            return grad
        if buffer.numel():
            factor = upstream[0] if _folds(rows) else upstream[0] * scale
            programs = min(triton.cdiv(buffer.numel(), _TILE), _MAX_PROGRAMS)
            _scale_kernel[(programs,)](buffer, upstream, factor, buffer.numel(), J=len(spec.parts), BLOCK=_TILE)
        if len(spec.parts) > 1:
            _launch(rows, spec, coef, upstream, buffer, with_sums=False)
        return buffer


def _folds(rows: Rows) -> bool:
    # fp16 would underflow under a large avg_factor: the factor waits for AMP's loss scale in backward.
    return rows.student.dtype != torch.float16


_MATRICES: dict[tuple[KDSpec, torch.device], Tensor] = {}


def _matrix(spec: KDSpec, device: torch.device) -> Tensor:
    """``(J, 4)`` weights of the parts, kept on the device: copying them there at each step would wait for it."""
    key = (spec, device)
    if key not in _MATRICES:
        _MATRICES[key] = spec.matrix(torch.empty((), device=device))
    return _MATRICES[key]


def _launch(
    rows: Rows, spec: KDSpec, coef: Tensor, upstream: Tensor | None, grad: Tensor | None, with_sums: bool
) -> Tensor | None:
    """Run the kernel over all rows; the sums of each program ``(programs, 5)`` if asked for.

    With ``upstream`` the kernel leaves ``grad`` as it is where all of ``upstream`` are equal.
    """
    student, teacher = rows.student, rows.teacher
    num_rows, num_logits = student.shape
    background = int(spec.activation == "implicit_bg")
    cols = max(16, triton.next_power_of_2(num_logits + background))
    height = max(1, _TILE // cols)
    programs = min(triton.cdiv(num_rows, height), _MAX_PROGRAMS)
    sums = torch.empty(programs, 5, device=student.device) if with_sums else None
    if programs:
        _rows_kernel[(programs,)](
            student,
            teacher,
            rows.labels if spec.select == "target" else student,
            student if rows.weight is None else rows.weight.contiguous(),
            coef,
            coef if upstream is None else upstream,
            student if grad is None else grad,
            coef if sums is None else sums,
            num_rows,
            num_logits,
            *student.stride(),
            *teacher.stride(),
            spec.tau,
            spec.gamma,
            J=len(spec.parts),
            SELECT=_SELECT[spec.select],
            K=spec.top_k,
            SIGMOID=spec.activation == "sigmoid",
            BACKGROUND=background,
            GAMMA=spec.gamma > 0,
            WEIGHT=rows.weight is not None,
            GRAD=grad is not None,
            SUMS=with_sums,
            UNLESS_EQUAL=upstream is not None,
            ROWS=height,
            COLS=cols,
            num_warps=4 if cols <= 2048 else 8 if cols <= 4096 else 16,
        )
    return sums
