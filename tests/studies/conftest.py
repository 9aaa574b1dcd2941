"""The tiny study with programs that stand in for the training and the test."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from study_files import TINY, shipped_plan

from rekd_det.utils.read_as_data import load_plain
from studies.runner.first_weights import write_first_weights
from studies.runner.run import with_needs
from studies.runner.run_study import report_study, run_study
from studies.runner.study_file import read_study

FAKE_TRAIN = """
import json, os, re, shutil, sys, time
from pathlib import Path
here, folder = Path(__file__).parent, Path(sys.argv[sys.argv.index("--work-dir") + 1])
kind = folder.name.split("-")[0].removeprefix("tiny_imagenet_")
call = dict(kind=kind, resume="--resume" in sys.argv, omp=os.environ.get("OMP_NUM_THREADS"))
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps(call) + "\\n")
if kind == "backbone":
    first = re.search("load_from ?= ?'(.+?)'", Path(sys.argv[1]).read_text())[1]
    shutil.copy(here / "trained" / Path(first).name, folder / "epoch_1.pth")
else:
    shutil.copy(here / "epoch_1.pth", folder)
(folder / "last_checkpoint").write_text(str(folder / "epoch_1.pth"))
if (here / "hang").exists():
    (here / "hang").write_text("now")
    time.sleep(60)
if (here / "fail").exists() and (here / "fail").read_text() in folder.name:
    print("so far so good")
    sys.exit("no disk")
"""
FAKE_TEST = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--work-dir") + 1]) / "20200101_000000"
folder.mkdir(parents=True, exist_ok=True)
score = 0.25 if "student" in sys.argv[1] else 0.5
(folder / "20200101_000000.json").write_text(json.dumps({"coco/bbox_mAP": score, "coco/bbox_mAP_l": -1.0, "time": 1}))
"""


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """The tiny study with backbones that are pre-trained on a handful of photographs, as a file."""
    folder = tmp_path_factory.mktemp("pretrained")
    for split, name in itertools.product(("train", "val"), ("cat", "dog")):
        images = folder / "photographs" / split / name
        images.mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{number}.JPEG")
    study = yaml.safe_load(TINY.read_text())
    for part in (study["teacher"], *study["arms"].values()):
        part["config"] = str(TINY.parent / part["config"])
    study["pretrain"] = {
        "config": str(TINY.parent / "configs/tiny_imagenet_backbone.py"),
        "data_root": "photographs",
    }
    path = folder / "tiny.yml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, pretrained):
    """Each backbone of the tiny study with other weights than its first ones, under the name of the first ones."""
    folder = tmp_path_factory.mktemp("trained")
    for run in with_needs(shipped_plan(pretrained)):
        if run.arm == "pretrain":
            path = write_first_weights(run, folder)
            weights = {k: v + 1 for k, v in load_plain(path)["state_dict"].items()}
            torch.save({"meta": {"epoch": 1, "iter": 3}, "state_dict": weights}, path)
    return folder


@pytest.fixture
def fake(tmp_path, monkeypatch, pretrained, trained, unformatted_configs):
    """``study()`` runs the tiny study with fake programs; ``calls()`` tells what they were asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "train.py").write_text(FAKE_TRAIN)
    (tools / "test.py").write_text(FAKE_TEST)
    (tools / "trained").symlink_to(trained)
    torch.save({"meta": {"epoch": 1, "iter": 3}, "state_dict": {"w": torch.zeros(1)}}, tools / "epoch_1.pth")
    root = tmp_path / "out"
    monkeypatch.setattr("studies.runner.run_study.make_plan", lambda study: shipped_plan(pretrained))

    def run(**kwargs) -> int:
        return run_study(read_study(pretrained), root, tools, **kwargs)

    def report() -> None:
        report_study(read_study(pretrained), root)

    def calls() -> list[dict]:
        log = tools / "calls.jsonl"
        found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    def results() -> dict[str, dict]:
        lines = (root / "tiny" / "results.jsonl").read_text().splitlines()
        return {line["arm"]: line for line in map(json.loads, lines)}

    return SimpleNamespace(study=run, report=report, calls=calls, results=results, tools=tools, root=root)
