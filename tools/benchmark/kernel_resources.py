"""Compiles the Triton kernels for GPUs that need not be here, and reads what they take from the machine code.

One row per variant and target: registers of a thread, bytes that do not fit into them and are spilled to memory, and
the instructions between threads (shuffles, reductions of a warp, barriers), vector loads, and instructions that a warp
issues for one row of logits. With them goes what a row moves through memory, and the seconds which that takes at least
for a million rows on an H100 (3.35 TB/s): a bound from the data sheet, not a measurement.

    python tools/benchmark/kernel_resources.py --out benchmarks/kernel_resources.csv
    python tools/benchmark/kernel_resources.py --targets sm_90 --logits 81 --modes softmax

Exit status 1 where a variant spills or takes too many registers. Needs triton, and no GPU; registers and
instructions are read by `cuobjdump` and `nvdisasm`, which come with triton. For AMD targets only the assembly's own
figures are there.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

# The interpreter, which tests use, must be off for the compiler. Triton reads this when it is imported.
os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # a result from Triton's cache would take no time

import torch
import triton
from measuring import show, write_table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rekd_det.models.losses import DKDLoss, KDLoss, LogitLoss, ReKDLoss
from rekd_det.models.losses.kernels import triton as kernels

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
#: COCO's 80 and 81 (with a background), Objects365, LVIS, and the limit
LOGITS = (80, 81, 365, 1203, 1204, kernels.MAX_WIDTH)
MODES: dict[str, LogitLoss] = {
    "softmax": ReKDLoss(top_k=5),
    "softmax_share": ReKDLoss(top_k=0.95),
    "implicit_bg": ReKDLoss(top_k=5, activation="implicit_bg", foreground_only=True),
    "target": DKDLoss(),
    "kd": KDLoss(),
    "kd_sigmoid": KDLoss(activation="sigmoid"),
    "sigmoid": ReKDLoss(top_k=5, activation="sigmoid"),
    "sigmoid_share": ReKDLoss(top_k=0.95, activation="sigmoid"),
    "split": ReKDLoss(top_k=5, activation="sigmoid", tisd="split"),
    "split_gamma": ReKDLoss(top_k=5, activation="sigmoid", tisd="split", gamma=1.0),
}
#: name of a pass: constants of the kernel
PASSES = {
    "forward": dict(grad=True, sums=True, unless_equal=False),
    "value": dict(grad=False, sums=True, unless_equal=False),
    "recompute": dict(grad=True, sums=False, unless_equal=True),
}
#: student's and teacher's dtype, weights, pass. What is left out of the product differs in loads alone.
SHAPES = [
    ("fp32", "fp32", True, "forward"),
    ("bf16", "bf16", False, "forward"),
    ("fp16", "fp32", True, "recompute"),
    ("fp32", "fp32", False, "value"),
]
#: how many of them: one target has all, and of AMD's it is asked that each kernel compiles without a spill
SHAPES_OF = {"sm_80": 2, "sm_90": 4, "sm_100": 2, "gfx942": 1}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
H100_BYTES_PER_S = 3.35e12


class Variant(NamedTuple):
    """One compilation."""

    target: str
    mode: str
    logits: int
    student: str
    teacher: str
    weighted: bool
    step: str


def variants(targets: list[str], logits: list[int], modes: list[str], shapes: list[tuple]) -> Iterator[Variant]:
    """What `auto` may choose among these."""
    for mode in modes:
        spec = MODES[mode].kernel_spec()
        assert spec is not None
        for width in logits:
            width -= spec.activation == "implicit_bg" and width == kernels.MAX_WIDTH
            if kernels.fits(spec, width):
                for target in targets:
                    for student, teacher, weighted, step in shapes[: SHAPES_OF[target]]:
                        yield Variant(target, mode, width, student, teacher, weighted, step)


def compiled(variant: Variant) -> dict:
    """Compile a variant and read its machine code: one row of the table."""
    spec = MODES[variant.mode].kernel_spec()
    assert spec is not None
    itemsize = DTYPES[variant.student].itemsize
    at = kernels.tile(spec, variant.logits, itemsize)
    constants = kernels.constants(spec, variant.logits, at, variant.weighted, **PASSES[variant.step])
    kernel = kernels._rows_kernel
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            kind = "constexpr"
        elif name.endswith("_ptr"):
            own = {"student_ptr": variant.student, "grad_ptr": variant.student, "teacher_ptr": variant.teacher}
            kind = "*" + own.get(name, "i64" if name == "label_ptr" else "fp32")
        else:
            kind = "fp32" if name in ("tau", "gamma", "share") else "i32"
        signature[name] = kind
        # As Triton does for what it is called with: torch's memory is aligned, and so are rows of 16 n elements.
        wide = name in ("num_logits", "student_row", "teacher_row") and variant.logits % 16 == 0
        if kind.startswith("*") or wide:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in constants.items()}, attributes)
    options = {"num_warps": at.warps, **kernels.OPTIONS}
    start = time.perf_counter()
    asm = triton.compile(source, target=TARGETS[variant.target], options=options).asm
    seconds = time.perf_counter() - start
    found = _amd(asm["amdgcn"]) if "amdgcn" in asm else _nvidia(asm["ptx"], asm["cubin"])
    moved = variant.logits * (itemsize + DTYPES[variant.teacher].itemsize) + 4 * variant.weighted
    moved += 8 * (spec.select == "target")
    if variant.step != "value":
        moved += variant.logits * itemsize
    if found["loop"]:
        found["warp_instructions_per_row"] = found["loop"] * at.warps // at.rows
    del found["loop"]
    return dict(
        **variant._asdict(),
        tile="x".join(map(str, at[:3])),
        warps=at.warps,
        **found,
        bytes_per_row=moved,
        h100_us_per_million_rows=round(1e12 * moved / H100_BYTES_PER_S),
        compile_s=round(seconds, 1),
    )


def _nvidia(ptx: str, cubin: bytes) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        sass = _tool("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no registers: {usage!r}")
    return dict(
        registers=int(found[1]),
        spilled_bytes=int(found[2]),
        shuffles=ptx.count("shfl.sync"),
        warp_reductions=ptx.count("redux.sync"),
        barriers=len(re.findall(r"\bbar(?:rier)?\.sync", ptx)),
        vector_loads=len(re.findall(r"ld\.global\S*\.v[248]\b", ptx)),
        warp_instructions_per_row="",
        loop=_longest_loop(sass),
    )


def _amd(assembly: str) -> dict:
    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", assembly)
        if found is None:
            raise RuntimeError(f"the assembly does not contain {key}")
        return int(found[1])

    return dict(
        registers=number("vgpr_count"),
        spilled_bytes=number("private_segment_fixed_size"),
        shuffles=len(re.findall(r"^\s*(?:ds_bpermute|ds_swizzle|v_permlane|v_readlane|v_\w+_dpp)", assembly, re.M)),
        warp_reductions=0,
        barriers=len(re.findall(r"^\s*s_barrier", assembly, re.M)),
        vector_loads=len(re.findall(r"^\s*(?:global|buffer)_load_dwordx[24]", assembly, re.M)),
        warp_instructions_per_row="",
        loop=0,
    )


def _longest_loop(sass: str) -> int:
    """Instructions in the longest loop, that over the rows; a loop inside it counts once."""
    at: list[int] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    waiting: list[str] = []
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            waiting.append(label[1])
            continue
        instruction = re.match(r"\s+/\*([0-9a-f]+)\*/\s+(.*);", line)
        if instruction:
            address = int(instruction[1], 16)
            labels.update(dict.fromkeys(waiting, address))
            waiting.clear()
            at.append(address)
            jump = re.search(r"BRA.*`\((\.L_x_\d+)\)", instruction[2])
            if jump:
                jumps.append((address, jump[1]))
    # The last jump of a kernel is to itself.
    spans = [(labels[to], here) for here, to in jumps if to in labels and labels[to] < here]
    return max((sum(first <= a <= last for a in at) for first, last in spans), default=0)


def _tool(name: str, *args: str) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([path, *args], check=True, capture_output=True, text=True).stdout


def offenders(table: list[dict], most_registers: int) -> list[dict]:
    """The rows that spill or take too many registers. AMD's threads have 512 registers; there only spills count."""
    return [
        row
        for row in table
        if row["spilled_bytes"] or (row["target"].startswith("sm_") and row["registers"] > most_registers)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--logits", nargs="+", type=int, default=list(LOGITS), metavar="C", help="logits per row")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES), help="kinds of loss")
    parser.add_argument("--forward-only", action="store_true", help="fp32 with weights and gradient alone, the fullest")
    parser.add_argument("--most-registers", type=int, default=128, help="more than these are an error")
    parser.add_argument("--jobs", type=int, default=1, help="compile so many at a time")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()

    todo = list(variants(args.targets, args.logits, args.modes, SHAPES[:1] if args.forward_only else SHAPES))
    table = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for row in pool.map(compiled, todo):
            table.append(row)
            show({k: v for k, v in row.items() if v != ""})
    if args.out and table:
        versions = dict(triton=triton.__version__)
        write_table([{**versions, **row} for row in table], args.out)
    bad = offenders(table, args.most_registers)
    if bad:
        sys.exit(f"{len(bad)} of {len(table)} variants spill or take more than {args.most_registers} registers")


if __name__ == "__main__":
    main()
