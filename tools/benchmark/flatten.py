"""The cost of copying a dense head's maps into rows before the loss reads them, compared with the loss itself.

The maps ``(B, A*C, H, W)`` of a RetinaNet at 800 x 1333 pixels, one image: 201,600 rows of 80 logits. Timed in turn are
the copies of student's and teacher's maps into rows with the way back of the gradient, and ReKD with its gradient.

    python tools/benchmark/flatten.py --threads 1 --out benchmarks/flatten_cpu.csv
"""

from __future__ import annotations

import statistics

import torch
from measuring import copy_bandwidth, machine, new_parser, show, timed, write_table
from torch import Tensor

from rekd_det.models.adapters.dense.dense import flatten_maps
from rekd_det.models.losses import ReKDLoss

CLASSES, ANCHORS = 80, 9
SIZES = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    teacher, student = (
        [torch.randn(1, ANCHORS * CLASSES, *size, device=args.device) for size in SIZES] for _ in range(2)
    )
    for each in student:
        each.requires_grad_()
    loss = ReKDLoss(activation="sigmoid")
    rows = flatten_maps(student, CLASSES, "image").detach().requires_grad_()
    teacher_rows, grad = flatten_maps(teacher, CLASSES, "image"), torch.randn_like(rows)

    def copies() -> Tensor:
        flatten_maps(teacher, CLASSES, "image")
        made = flatten_maps(student, CLASSES, "image")
        made.backward(grad)
        return made

    def distil() -> None:
        rows.grad = None
        loss(rows, teacher_rows).backward()

    calls = {"copies": copies, "loss": distil}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(args.repeats + 1):
        for name, call in calls.items():
            for each in student:
                each.grad = None
            measured = timed(call, args.device)
            if turn:  # the first is for warming up
                times[name].append(measured)
    bandwidth = copy_bandwidth(args.device)
    host = machine(args.device) | dict(copy_gb_per_s=round(bandwidth / 1e9, 1))
    table = []
    for name, of in times.items():
        wall, cpu = (statistics.median(v) for v in zip(*of, strict=True))
        row = dict(rows=len(rows), classes=CLASSES, what=name, wall_s=round(wall, 4), cpu_s=round(cpu, 4))
        table.append(host | row)
        show(table[-1])
    if args.out:
        write_table(table, args.out)


if __name__ == "__main__":
    main()
