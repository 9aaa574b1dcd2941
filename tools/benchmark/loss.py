"""Times the distillation losses: every backend, the naive formulation and torch's own KL, forward and backward.

All candidates run in one process, in turn, on the same logits; medians are reported. The bound is what the memory
allows: one read of both logits and one write of the gradient, at the copy bandwidth measured in the same process.

    python tools/benchmark/loss.py --out benchmarks/loss_cpu.csv --plot loss_cpu.png
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import copy_bandwidth, machine, new_parser, peak_bytes, show, timed, write_table
from torch import Tensor

from rekd_det.analysis.utils.figures import new_figure, save
from rekd_det.models.losses import ReKDLoss

#: (rows, classes, top_k) along each axis; the first of a kind carries the targets
ROWS = [(n, 80, 5) for n in (256, 2_000, 20_000, 200_000)] + [(1024, 81, 5)]
CLASSES = [(2_000, c, 5) for c in (20, 80, 365, 1204)]
TOP_K = [(20_000, 80, k) for k in (1, 2, 5, 8, 12, 16)]
GPU_ROWS = [(400_000, 80, 5)]

#: below this many logits a step's time depends on whose data and code are in the caches: each timed step then follows
#: an untimed one of the same candidate
WARM = 1_000_000

Loss = Callable[[Tensor, Tensor], Tensor]


def naive(top_k: int) -> Loss:
    """TISD and a quarter of NTID by masked softmaxes and autograd, the way such losses are usually written."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = student.float(), teacher.float()
        head = torch.zeros_like(teacher).scatter_(1, teacher.topk(top_k, 1).indices, 1.0)
        p, q = teacher.softmax(1), student.softmax(1)
        p_mass, q_mass = (p * head).sum(1, keepdim=True), (q * head).sum(1, keepdim=True)
        p_buckets = torch.cat([p * head, 1 - p_mass], 1)
        q_buckets = torch.cat([q * head, 1 - q_mass], 1)
        tisd = F.kl_div((q_buckets + 1e-12).log(), p_buckets, reduction="batchmean")
        log_p, log_q = (F.log_softmax(x - 1000.0 * head, 1) for x in (teacher, student))
        return tisd + 0.25 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    return loss


def torch_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Classical distillation with torch's own functions: less work than ReKD, as a yardstick."""
    log_q, log_p = student.float().log_softmax(1), teacher.float().log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def candidates(device: str, top_k: int, compiled: bool) -> dict[str, Loss]:
    """The losses by name; ``compiled`` adds what ``torch.compile`` makes of the eager one."""
    out: dict[str, Loss] = {"naive": naive(top_k), "torch_kl": torch_kl}
    for backend in ("eager", "fused", *(["triton"] if device == "cuda" else [])):
        out[backend] = ReKDLoss(top_k=top_k, backend=backend)
    if compiled:
        # Each size for itself: with sizes left open the code is slower.
        torch.compiler.reset()
        out["compiled"] = torch.compile(ReKDLoss(top_k=top_k, backend="eager"), dynamic=False)
    return out


def step(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    """One forward and backward; the gradient is dropped, as an optimizer's zero_grad would."""
    student.grad = None
    loss(student, teacher).backward()


def measure(
    case: tuple[int, int, int], dtype: torch.dtype, device: str, repeats: int, bandwidth: float, compiled: bool
) -> list[dict]:
    """One CSV row per candidate."""
    rows, classes, top_k = case
    generator = torch.Generator().manual_seed(0)
    student = (2 * torch.randn(rows, classes, generator=generator)).to(device, dtype).requires_grad_()
    teacher = (2 * torch.randn(rows, classes, generator=generator)).to(device, dtype)
    losses = candidates(device, top_k, compiled)
    for loss in losses.values():
        step(loss, student, teacher)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    for _ in range(repeats):
        for name, loss in losses.items():
            if rows * classes < WARM:
                step(loss, student, teacher)
            times[name].append(timed(lambda loss=loss: step(loss, student, teacher), device))  # type: ignore[misc]
    student.grad = None
    median = {name: [statistics.median(v) for v in zip(*t, strict=True)] for name, t in times.items()}
    nbytes = rows * classes * student.element_size()
    out = []
    for name, loss in losses.items():
        student.grad = None
        peak = peak_bytes(lambda loss=loss: step(loss, student, teacher), device)  # type: ignore[misc]
        wall, cpu = median[name]
        out.append(
            dict(
                rows=rows,
                classes=classes,
                top_k=top_k,
                dtype=str(dtype).removeprefix("torch."),
                backend=name,
                wall_ms=round(1e3 * wall, 4),
                cpu_ms=round(1e3 * cpu, 4),
                bound_ms=round(1e3 * 3 * nbytes / bandwidth, 4),
                wall_speedup=round(median["naive"][0] / wall, 2),
                cpu_speedup=round(median["naive"][1] / cpu, 2),
                peak_per_fp32_buffer=round(peak / (4 * rows * classes), 3),
            )
        )
    return out


def plot(table: list[dict], path: Path) -> None:
    """Time against rows, classes and head size for fp32."""
    time_key = "wall_ms" if table[0]["backend_device"] == "cuda" else "cpu_ms"
    figure, axes = new_figure(13, 4, columns=3)
    cases = [(ROWS, "rows", "rows N (C = 80, K = 5)"), (CLASSES, "classes", "classes C (N = 2000, K = 5)")]
    for axis, (grid, key, label) in zip(
        axes, [*cases, (TOP_K, "top_k", "head size K (N = 20000, C = 80)")], strict=True
    ):
        known = {c for c in grid if c[1] != 81}
        rows = [r for r in table if (r["rows"], r["classes"], r["top_k"]) in known and r["dtype"] == "float32"]
        for backend in dict.fromkeys(r["backend"] for r in rows):
            line = sorted((r[key], r[time_key]) for r in rows if r["backend"] == backend)
            axis.plot(*zip(*line, strict=True), marker="o", label=backend)
        bound = sorted({(r[key], r["bound_ms"]) for r in rows})
        axis.plot(*zip(*bound, strict=True), "k--", label="bound by bandwidth")
        axis.set(xlabel=label, yscale="log", ylabel=f"forward + backward, {time_key.replace('_', ' in ')}")
        if key != "top_k":
            axis.set(xscale="log")
    axes[0].legend()
    figure.suptitle(f"ReKD loss, {table[0]['device']}, torch {table[0]['torch']}, {table[0]['date']}")
    save(figure, path)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each candidate")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="dtypes of the logits")
    parser.add_argument("--case", nargs=3, type=int, metavar=("N", "C", "K"), help="one size instead of the grid")
    parser.add_argument("--compile", action="store_true", help="also what torch.compile makes of the eager losses")
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    args = parser.parse_args()
    if args.plot and args.case:
        parser.error("--plot needs the whole grid: leave --case out")

    torch.set_num_threads(args.threads)
    bandwidth = copy_bandwidth(args.device)
    grid = [tuple(args.case)] if args.case else [*ROWS, *CLASSES, *TOP_K]
    if args.device == "cuda" and not args.case:
        grid += GPU_ROWS
    host = dict(copy_gb_per_s=round(bandwidth / 1e9, 1), backend_device=args.device)
    table: list[dict] = []
    for case in dict.fromkeys(grid):
        for dtype in args.dtypes:
            for row in measure(case, getattr(torch, dtype), args.device, args.repeats, bandwidth, args.compile):
                table.append(machine(args.device) | host | row)
                show(row)
    if args.out:
        write_table(table, args.out)
    if args.plot:
        plot(table, args.plot)


if __name__ == "__main__":
    main()
