"""``tools/study.py`` from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from commands import fail, run
from mmengine.config import Config
from study_files import ARMS, ROOT, TOOL, write


@pytest.mark.slow
def test_a_tiny_study_from_end_to_end(pretrained, tmp_path):
    run(sys.executable, TOOL, pretrained, "--out", tmp_path / "out", cwd=tmp_path)
    lines = (tmp_path / "out/tiny/results.jsonl").read_text().splitlines()
    found = {entry["arm"]: entry for entry in map(json.loads, lines)}
    assert {arm: entry["status"] for arm, entry in found.items()} == dict.fromkeys(ARMS, "ok")
    assert all("bbox_mAP" in found[arm]["metrics"] for arm in ARMS[1:])
    for arm in ARMS[1:]:
        config = Config.fromfile(tmp_path / "out/runs" / found[arm]["folder"] / "config.py")
        assert "-backbone-" in Path(config.load_from).name

    def first_step(arm: str) -> dict:
        (log,) = (tmp_path / "out/runs" / found[arm]["folder"]).glob("2*/vis_data/scalars.json")
        return json.loads(log.read_text().splitlines()[0])

    # The same weights, images, augmentation and samples: all arms start with the same losses, to the last bit.
    alone, distilled = first_step("student"), first_step("rekd_pkd")
    assert alone["step"] == distilled["step"] == 1
    own = [name for name in alone if "loss_" in name]
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"} <= set(own)
    assert {name: distilled[name] for name in own} == {name: alone[name] for name in own}
    assert distilled["distill.loss_pkd"] > 0

    assert "5 of 5 runs are finished" in (tmp_path / "out/tiny/report.md").read_text()


@pytest.mark.slow
def test_the_tool_says_what_is_wrong(tmp_path):
    said = fail(sys.executable, TOOL, write(tmp_path, seeds=3), cwd=ROOT, status=1)
    message = f"error: study '{tmp_path / 'study.yml'}': seeds must be whole numbers"
    assert any(line.startswith(message) for line in said.splitlines())
