"""Shows how the cost of the distillation losses grows with rows N, logits C, head size K and the number of heads.

One axis is moved at a time; forward and backward are timed, the sizes of an axis in turn. A straight line through the
points and its largest deviation are reported.

    python tools/benchmark/scaling.py --out benchmarks/scaling_cpu.csv --plot docs/performance/scaling_cpu.png
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import machine, new_parser, timed, write_table
from torch import Tensor

from rekd_det.analysis.utils.figures import new_figure, save
from rekd_det.models.losses import ReKDLoss

#: where an axis starts from
BASE = dict(rows=20_000, classes=80, top_k=5, heads=1)
AXES: dict[str, list[int]] = {
    "rows": [10_000, 25_000, 50_000, 100_000, 150_000, 200_000],
    "classes": [40, 80, 160, 320, 640, 1204],
    "top_k": [1, 2, 4, 6, 8, 12, 16],
    "heads": [1, 2, 3, 6, 9, 12],
}
LABELS = {"rows": "rows N", "classes": "logits per row C", "top_k": "head size K", "heads": "detection heads"}


def step(rows: int, classes: int, top_k: int, heads: int, device: str) -> Callable[[], None]:
    """One forward and backward over ``heads`` detection heads of ``rows`` rows each."""
    generator = torch.Generator().manual_seed(0)
    pairs: list[list[Tensor]] = [
        [(2 * torch.randn(rows, classes, generator=generator)).to(device) for _ in range(2)] for _ in range(heads)
    ]
    for student, _ in pairs:
        student.requires_grad_()
    loss = ReKDLoss(top_k=top_k)

    def run() -> None:
        for student, _ in pairs:
            student.grad = None
        torch.stack([loss(student, teacher) for student, teacher in pairs]).sum().backward()

    return run


def measure(axis: str, repeats: int, device: str) -> list[dict]:
    """Median seconds for each size along one axis."""
    base = {**BASE, "rows": 2_000} if axis in ("classes", "heads") else BASE
    sizes = [{**base, axis: value} for value in AXES[axis]]
    calls = [step(**size, device=device) for size in sizes]
    clock = 0 if device == "cuda" else 1
    for call in calls:
        call()
    seconds = [[timed(call, device)[clock] for call in calls] for _ in range(repeats)]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    return [dict(axis=axis, **size, ms=round(1e3 * s, 4)) for size, s in zip(sizes, medians, strict=True)]


def line(rows: list[dict]) -> tuple[np.ndarray, float]:
    """The straight line through an axis's points, as values there, and its largest deviation relative to the top."""
    x = np.array([r[r["axis"]] for r in rows], dtype=float)
    y = np.array([r["ms"] for r in rows])
    fit = np.polyval(np.polyfit(x, y, 1), x)
    return fit, float(np.abs(fit - y).max() / y.max())


def plot(table: dict[str, list[dict]], title: str, path: Path) -> None:
    """One panel per axis."""
    figure, axes = new_figure(15, 3.8, columns=4)
    for panel, (axis, rows) in zip(axes, table.items(), strict=True):
        x, (fit, deviation) = [r[axis] for r in rows], line(rows)
        panel.plot(x, fit, color="0.6", label=f"straight line, off by at most {deviation:.0%}")
        panel.plot(x, [r["ms"] for r in rows], "o", label="measured")
        rest = ", ".join(f"{k} {v}" for k, v in rows[0].items() if k in BASE and k != axis)
        panel.set(xlabel=LABELS[axis], xlim=(0, None), ylim=(0, None))
        panel.set_title(rest.replace("_", " "), fontsize=9)
        panel.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("forward + backward, ms")
    figure.suptitle(title)
    save(figure, path)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = {axis: measure(axis, args.repeats, args.device) for axis in AXES}
    head = machine(args.device) | dict(clock="wall" if args.device == "cuda" else "cpu")
    for axis, rows in table.items():
        print(
            f"{axis}: " + ", ".join(f"{r[axis]}: {r['ms']:.2f} ms" for r in rows), f"(line off by {line(rows)[1]:.1%})"
        )
    if args.out:
        write_table([head | row for rows in table.values() for row in rows], args.out)
    if args.plot:
        plot(table, f"ReKD loss, {head['device']}, torch {head['torch']}, {head['date']}", args.plot)


if __name__ == "__main__":
    main()
