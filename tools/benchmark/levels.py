"""The most memory that a step of a dense pair holds: distilled level by level, and with all rows in one tensor.

One pair, one batch, one process. Beside the whole step, what the distillation holds by itself (from the teacher's head
on, losses and their backward down to the student's logits included).

    python tools/benchmark/levels.py configs/rekd_retina_r101_r18_coco.py --size 320 400 --out benchmarks/levels_cpu.csv
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from contenders import Workbench
from live_bytes import LiveBytes
from measuring import new_parser, show, write_table
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from step import machine_and_pair, measure_memory

from rekd_det.apis.cfg_options import CfgOptions
from rekd_det.models.adapters.dense.dense import DenseAdapter
from rekd_det.utils.shadow import shadowed


def distillation_peak(model: Any) -> int:
    """Most bytes that the distillation holds at a time, on a CPU."""
    peaks = []
    distil = model.distiller.compute_distill_losses

    def watched(feats: Any, samples: Any) -> dict[str, torch.Tensor]:
        with LiveBytes() as memory:
            calls = model.distiller.adapter._calls
            memory.follow_not([call.pred for call in calls])  # detach() returns their memory
            for call in calls:
                call.pred = call.pred.detach().requires_grad_()
            out = distil(feats, samples)
            torch.stack([v for k, v in out.items() if "loss" in k]).sum().backward()
        peaks.append(memory.peak)
        return {k: v.detach() for k, v in out.items()}

    with shadowed(model.distiller, "compute_distill_losses", watched):
        model.total_loss()
    return peaks[0]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("config", help="config of a pair with a dense head")
    parser.add_argument("--size", nargs=2, type=int, default=[320, 400], metavar=("H", "W"), help="pixels")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, help="override keys of the config")
    args = parser.parse_args()

    init_default_scope("mmdet")
    MMLogger.get_instance("benchmark", log_level="WARNING")
    bench = Workbench(args.config, tuple(args.size), args.batch, args.device, args.cfg_options)
    model = bench.algorithm()
    adapter = model.distiller.adapter
    if not isinstance(adapter, DenseAdapter):
        parser.error(f"{args.config} is not a pair of dense heads")
    table = []
    for rows in ("levels", "one tensor"):
        step_mb = distil_mb = 0.0
        # In one tensor as for heads whose loss sees all levels so.
        copied = shadowed(adapter, "_calls_are_levels", lambda maps: False)
        with copied if rows == "one tensor" else nullcontext():
            step_mb = measure_memory(model.total_loss, bench, args.device) / 2**20
            if args.device == "cpu":
                distil_mb = distillation_peak(model) / 2**20
        row = dict(rows=rows, step_peak_mb=round(step_mb, 1), distillation_peak_mb=round(distil_mb, 1) or "")
        show(row)
        table.append(machine_and_pair(args) | dict(repeats=1) | row)
    if args.out:
        write_table(table, args.out)


if __name__ == "__main__":
    main()
