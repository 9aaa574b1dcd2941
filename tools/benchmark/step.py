"""Times whole training steps (forward and backward, no optimizer) of the ways to distil one pair, and their memory.

All contenders run in one process, in turn, on the same batch and the same random numbers:

    student     the student alone
    floor       the student and the teacher's bare forward on the student's rows: what distillation costs at least
    ours        ReKDDistill; `ours folded`, `ours nhwc`, `ours bf16`, `ours compiled` with options of the teacher
    mmrazor     MMRazor's SingleTeacherDistill with a KL loss on the layer that gives the class logits
    head twice  RetinaNet only: the student's head run a second time for the distillation

    python tools/benchmark/step.py configs/rekd_frcnn_r101_r18_coco.py --size 320 400 --batch 2 --out step.csv

Steps are timed whole, and the teacher's part of each (all but the student's forward and the backward) by itself.
On a CPU the CPU seconds of one thread are compared, which other work on the machine disturbs least; on a GPU the wall
clock. Memory is what a step holds at most beyond weights: CUDA's own count, or on a CPU the bytes of live tensors.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import mmcv
import mmdet
import torch
from contenders import VARIANTS, Step, Workbench
from live_bytes import LiveBytes
from measuring import machine, new_parser, peak_bytes, timed, write_table
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

import rekd_det
from rekd_det.apis.cfg_options import CfgOptions

#: seconds of every repeat, by contender
Times = dict[str, list[float]]


def run(step: Step, student: list[nn.Parameter]) -> None:
    """One training step, without the optimizer's part."""
    for p in student:
        p.grad = None
    torch.manual_seed(0)  # the same RoIs are sampled each time
    step().backward()


def measure_times(calls: Mapping[str, Callable[[], object]], repeats: int, device: str) -> Times:
    """Seconds of each repeat. The order turns by one each time, so that nobody always follows the same neighbour."""
    clock = 0 if device == "cuda" else 1
    times: Times = {name: [] for name in calls}
    names = list(calls)
    for repeat in range(-1, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            seconds = timed(calls[name], device)[clock]
            if repeat >= 0:  # the first turn warms up
                times[name].append(seconds)
        print(f"turn {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
    return times


def measure_memory(step: Step, bench: Workbench, device: str) -> int:
    """Most bytes that one step holds at a time beyond the weights; the student's gradients are part of it."""
    params = list(bench.student.parameters())
    for p in params:
        p.grad = None
    if device == "cuda":
        return peak_bytes(lambda: run(step, params), device)
    with LiveBytes() as memory:
        memory.follow_not([*params, *bench.student.buffers(), bench.inputs])
        run(step, params)
        for p in params:
            p.grad = None
    return memory.peak


def table(steps: Times, parts: Times, peaks: dict[str, int], head: dict) -> list[dict]:
    """One CSV row per contender. Ratios are taken within a turn, and their medians reported."""
    rows = []
    for name in {**steps, **parts, **peaks}:
        row = dict(
            contender=name,
            step_s=_median(steps.get(name)),
            step_per_floor=_ratio(steps, name, "floor"),
            teacher_s=_median(parts.get(name)),
            teacher_per_floor=_ratio(parts, name, "floor"),
            teacher_per_mmrazor=_ratio(parts, name, "mmrazor"),
            peak_mb=round(peaks[name] / 2**20, 1) if name in peaks else "",
        )
        rows.append({**head, **row})
    return rows


def _median(seconds: list[float] | None) -> float | str:
    return round(statistics.median(seconds), 4) if seconds else ""


def _ratio(times: Times, name: str, base: str) -> float | str:
    if not times.get(name) or not times.get(base):
        return ""
    return round(statistics.median(a / b for a, b in zip(times[name], times[base], strict=True)), 3)


def profile(bench: Workbench, options: dict, device: str) -> str:
    """Where one step of ours spends its time: by part, then by operator."""
    model = bench.algorithm(**options)
    teacher, head = model.teacher, getattr(model.teacher, "roi_head", None)
    parts = {"teacher backbone": teacher.backbone, "teacher neck": teacher.neck, "student": model.architecture}
    if head is not None:
        parts |= {"teacher RoI extractor": head.bbox_roi_extractor, "teacher box head": head.bbox_head}
    for name, module in parts.items():
        _label(module, "forward", name)
    _label(model.distiller, "_components", "distillation losses")
    _label(model.distiller.adapter, "align", "teacher head, all")
    params = list(bench.student.parameters())
    run(model.total_loss, params)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as result:
        with torch.profiler.record_function("# forward"):
            torch.manual_seed(0)
            loss = model.total_loss()
        with torch.profiler.record_function("# backward"):
            loss.backward()
    key = "device_time_total" if device == "cuda" else "cpu_time_total"
    events = result.key_averages()
    lines = [
        f"{e.key.removeprefix('# '):28s} {getattr(e, key) / 1e6:8.3f} s"
        for e in sorted(events, key=lambda e: -getattr(e, key))
        if e.key.startswith("# ")
    ]
    by = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    return "\n".join(lines) + "\n\n" + events.table(sort_by=by, row_limit=12, max_name_column_width=40)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers."""
    return sum(t.nbytes for t in [*model.parameters(), *model.buffers()])


def _label(owner, method: str, name: str) -> None:
    original = getattr(owner, method)

    def labelled(*args, **kwargs):
        with torch.profiler.record_function(f"# {name}"):
            return original(*args, **kwargs)

    owner.__dict__[method] = labelled


def machine_and_pair(args: argparse.Namespace) -> dict:
    """What the numbers depend on, without the number of repeats."""
    return machine(args.device) | dict(
        clock="wall" if args.device == "cuda" else "cpu",
        mmdet=mmdet.__version__,
        mmcv=mmcv.__version__,
        rekd_det=rekd_det.__version__,
        config=Path(args.config).stem,
        height=args.size[0],
        width=args.size[1],
        batch=args.batch,
    )


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("config", help="config of a pair")
    parser.add_argument("--size", nargs=2, type=int, default=[320, 400], metavar=("H", "W"), help="pixels")
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each contender")
    parser.add_argument("--variants", nargs="*", default=[], choices=list(VARIANTS), help="options of the teacher")
    parser.add_argument(
        "--what", nargs="+", default=["steps", "teacher", "memory"], choices=["steps", "teacher", "memory"]
    )
    parser.add_argument("--profile", type=Path, help="also write where the time of `ours` goes to this file")
    parser.add_argument("--quick", action="store_true", help="tiny images and one repeat: only to see that it runs")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, help="override keys of the config")
    args = parser.parse_args()
    if args.quick:
        args.size, args.batch, args.repeats = [96, 128], 1, 1

    torch.set_num_threads(args.threads)
    init_default_scope("mmdet")
    MMLogger.get_instance("benchmark", log_level="WARNING")
    bench = Workbench(args.config, tuple(args.size), args.batch, args.device, args.cfg_options)
    steps = bench.contenders(args.variants)
    for name in ("student", "teacher"):
        print(f"{name}: {weight_bytes(getattr(bench, name)) / 2**20:.0f} MB of weights")
    parameters = list(bench.student.parameters())
    times: Times = {}
    parts: Times = {}
    if "steps" in args.what:
        whole = {n: partial(run, step, parameters) for n, step in steps.items()}
        times = measure_times(whole, args.repeats, args.device)
    if "teacher" in args.what:
        with bench.teacher_parts(args.variants) as calls:
            parts = measure_times(calls, args.repeats, args.device)
    peaks = {n: measure_memory(s, bench, args.device) for n, s in steps.items()} if "memory" in args.what else {}
    rows = table(times, parts, peaks, machine_and_pair(args) | dict(repeats=args.repeats))
    shown = ("contender", *(k for k in rows[0] if k.endswith(("_s", "_floor", "_mmrazor", "_mb"))))
    for row in (dict.fromkeys(shown), *rows):
        print("  ".join(f"{(k if row[k] is None else row[k])!s:>19s}" for k in shown))
    if args.profile:
        args.profile.write_text(profile(bench, {}, args.device) + "\n")
    if args.out:
        write_table(rows, args.out)


if __name__ == "__main__":
    main()
