"""The quickstart: its notebook runs from start to end, and its page has the notebook's commands."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
PAGE = ROOT / "docs" / "quickstart.md"
TOOLS = re.compile(r"^python (tools/\S+\.py .*)$", re.MULTILINE)


def commands(text: str) -> set[str]:
    """Each command that calls a tool, on one line and without redirections."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return {re.sub(r"( 2?> ?\S+)+( &)?$", "", found).strip() for found in TOOLS.findall(joined)}


def test_the_page_has_the_commands_of_the_notebook():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    in_notebook = {c for cell in cells if cell.cell_type == "code" for c in commands(cell.source)}
    assert len(in_notebook) == 9
    assert commands(PAGE.read_text()) == in_notebook


def test_the_notebook_is_committed_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    # In a copy: it writes to work_dirs/quickstart, where a user's own run may be.
    for name in ("tools", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": tmp_path / "docs"}}
    ).execute()
    work = tmp_path / "work_dirs" / "quickstart"
    said = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "0 mistakes" in said
    assert "ReKD's first step distils" in said
    assert "detections with a score of at least 0.2" in said
    assert said.count("bbox_mAP: ") == 9  # three trainings, each validated three times
    for name in ("curves.png", "val_img.png", "head_tail/report.html", "student.pth", "comparison/report.md"):
        assert (work / name).stat().st_size > 0
    scalars = (work / "distilled").glob("*/vis_data/scalars.json")
    steps = [json.loads(line) for file in scalars for line in file.read_text().splitlines()]
    assert all(s["distill.loss_tisd"] > 0 for s in steps if "loss_cls" in s)
