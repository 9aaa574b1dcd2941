"""The demo: its configs build and agree with its data, and its steps run, resume and are reused."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from load_tool import load_tool
from mmengine.config import Config
from mmengine.registry import MODELS

from rekd_det.apis.command_line import add_common_arguments
from rekd_det.datasets.synthetic import PRESETS, build_dataset
from rekd_det.utils.errors import InputError
from rekd_det.utils.read_as_data import load_plain

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "demo"
TOOL = ROOT / "tools" / "demo.py"


@pytest.fixture(scope="module")
def demo():
    return load_tool(TOOL)


def read(name: str) -> Config:
    return Config.fromfile(CONFIGS / f"{name}.py")


# --- configs --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacher", "student", "rekd"])
@pytest.mark.parametrize("preset", ["tiny", "demo"])
def test_configs_name_the_categories_of_the_data(name, preset):
    cfg = read(name)
    names = tuple(c.name for c in PRESETS[preset].categories)
    for split in ("train", "val", "test"):
        assert cfg[f"{split}_dataloader"].dataset.metainfo.classes == names


def test_the_student_is_smaller_than_the_teacher():
    sizes = [sum(p.numel() for p in MODELS.build(read(name).model).parameters()) for name in ("student", "teacher")]
    assert sizes[0] < 0.7 * sizes[1]


def test_the_pair_builds_and_shares_the_students_config(tmp_path):
    cfg = read("rekd")
    assert cfg.model.architecture == read("student").model
    teacher = MODELS.build(read("teacher").model)
    torch.save({"state_dict": teacher.state_dict()}, tmp_path / "teacher.pth")
    cfg.model.teacher_ckpt = str(tmp_path / "teacher.pth")
    pair = MODELS.build(cfg.model)
    for name, value in pair.teacher.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name])


def test_nothing_that_is_not_pretrained_is_frozen():
    for name in ("teacher", "student"):
        model = MODELS.build(read(name).model)
        model.train()
        assert all(p.requires_grad for p in model.parameters())
        assert all(m.training for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm))


# --- the steps ------------------------------------------------------------------------------


@pytest.fixture
def training(demo, tmp_path, monkeypatch):
    """A training whose tool only leaves a checkpoint; ``calls`` counts how often it ran."""
    run = demo.Training(CONFIGS / "teacher.py", tmp_path / "teacher", {}, "data")
    calls = []

    def leave_a_checkpoint(output, *arguments):
        calls.append([str(a) for a in arguments])
        (run.folder / "epoch_8.pth").touch()
        (run.folder / "last_checkpoint").write_text(str(run.folder / "epoch_8.pth"))

    monkeypatch.setattr(demo, "run_tool", leave_a_checkpoint)
    return run, calls


def test_a_finished_training_is_reused(training, capsys):
    run, calls = training
    run.run()
    run.run()
    assert len(calls) == 1
    assert "--resume" in calls[0]
    assert "finished before, reused" in capsys.readouterr().out


def test_an_interrupted_training_goes_on_in_its_folder(demo, training, monkeypatch):
    run, calls = training
    working = demo.run_tool

    def die(output, *arguments):
        (run.folder / "epoch_3.pth").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_tool", die)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    monkeypatch.setattr(demo, "run_tool", working)
    run.run()
    assert len(calls) == 1
    assert (run.folder / "epoch_3.pth").is_file()


def test_a_finished_training_whose_checkpoint_was_deleted_runs_again(training):
    run, calls = training
    run.run()
    run.checkpoint.unlink()
    run.run()
    assert len(calls) == 2
    assert run.checkpoint.is_file()


def test_other_inputs_start_over(demo, training):
    run, calls = training
    run.run()
    (run.folder / "left_over").touch()
    demo.Training(run.config, run.folder, run.options, "other data").run()
    assert len(calls) == 2
    assert not (run.folder / "left_over").exists()


def test_a_folder_the_demo_did_not_make_is_left_alone(demo, training):
    run, calls = training
    run.folder.mkdir()
    (run.folder / "thesis.tex").touch()
    with pytest.raises(InputError, match="was not made by the demo"):
        run.run()
    assert (run.folder / "thesis.tex").is_file()
    assert not calls


def test_a_failing_tool_ends_the_demo_with_its_last_words(demo, tmp_path):
    output = tmp_path / "output.txt"
    program = tmp_path / "train.py"
    program.write_text("print('so far so good')\nraise SystemExit('no disk')\n")
    with pytest.raises(InputError, match=r"train\.py ended with status 1(.|\n)*no disk"):
        demo.run_tool(output, program)
    assert "so far so good" in output.read_text()


def test_only_progress_is_shown(demo, tmp_path, capsys):
    program = tmp_path / "train.py"
    progress = "Epoch(train) [1][10/50]  lr: 1.0e-04  eta: 0:07:26  loss: 2.75"
    lines = [
        "model = dict(",
        "11/24 06:15:10 - mmengine - INFO - Config:",
        f"11/24 06:15:22 - mmengine - INFO - {progress}",
        "11/24 06:15:23 - mmengine - ERROR - something is odd",
    ]
    program.write_text(f"print({chr(10).join(lines)!r})\n")
    demo.run_tool(tmp_path / "output.txt", program)
    assert capsys.readouterr().out.splitlines() == [progress, "ERROR - something is odd"]


def test_paths_with_blanks_reach_the_tools_as_they_are(demo):
    options = demo.data_options(Path("/my work/data")) | {"model.teacher_ckpt": Path("/my work/epoch 1.pth")}
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    assert parser.parse_args(demo.as_arguments(options)).cfg_options == {k: str(v) for k, v in options.items()}


def test_a_picture_without_detections(demo, tmp_path):
    build_dataset(tmp_path / "data", "tiny")
    demo.draw_picture(tmp_path / "data", tmp_path, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").is_file()


@pytest.mark.slow
def test_quick_demo_runs_and_reuses_its_steps(tmp_path):
    work = tmp_path / "my ü work"  # the paths in it are handed on by --cfg-options
    command = (sys.executable, TOOL, "--quick", "--work-dir", work)
    first = run(*command, cwd=tmp_path)
    for step in range(1, 6):
        assert f"=== {step}/5" in first
    assert "Epoch(train)" in first
    log = (work / "student" / "output.txt").read_text()
    assert "distill.loss_tisd" in log
    weights = load_plain(work / "student" / "epoch_1.pth")["state_dict"]
    assert all(key.startswith("architecture.") for key in weights)
    assert (work / "student_detections.png").is_file()
    detections = json.loads((work / "eval_student" / "detections.bbox.json").read_text())
    assert {"image_id", "category_id", "bbox", "score"} <= set(detections[0])

    second = run(*command, cwd=tmp_path)
    assert second.count("reused") == 3
    assert "Epoch(train)" not in second
