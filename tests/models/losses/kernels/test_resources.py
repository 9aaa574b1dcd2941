"""What a compiler makes of the Triton kernels for GPUs that are not here: no spilled bytes, at most 128 registers.

The tests' own process runs Triton's interpreter, so a child compiles.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_cases import HAS_TRITON

TOOL = Path(__file__).parents[4] / "tools/benchmark/kernel_resources.py"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")]


def resources(out, *args):
    """The exit status, what was printed, and the table."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, TOOL, *args, "--out", out], capture_output=True, text=True, env=env)
    with open(out, newline="") as file:
        return result.returncode, result.stdout + result.stderr, list(csv.DictReader(file))


def check(status, printed, table):
    assert status == 0, printed
    assert all(row["spilled_bytes"] == "0" for row in table)
    assert all(int(row["registers"]) <= 128 for row in table if row["target"].startswith("sm_"))


def test_coco_with_a_background(tmp_path):
    result = resources(
        tmp_path / "table.csv",
        *("--targets", "sm_90", "--logits", "81", "--modes", "softmax", "sigmoid", "--forward-only"),
    )
    check(*result)
    assert [row["mode"] for row in result[2]] == ["softmax", "sigmoid"]


def test_too_many_registers_are_told(tmp_path):
    args = ("--targets", "sm_90", "--logits", "81", "--modes", "softmax", "--forward-only", "--most-registers", "16")
    status, printed, _ = resources(tmp_path / "table.csv", *args)
    assert status == 1
    assert "1 of 1 variants spill or take more than 16 registers" in printed


def test_every_kind_of_loss_on_coco_and_lvis(tmp_path):
    """The fullest variant of each; the program without options compiles all of them, in half an hour."""
    args = ("--targets", "sm_90", "--logits", "81", "1204", "--forward-only", "--jobs", str(os.cpu_count()))
    result = resources(tmp_path / "table.csv", *args)
    check(*result)
    assert {row["logits"] for row in result[2]} == {"81", "1204"}
