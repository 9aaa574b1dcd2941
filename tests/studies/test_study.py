"""Studies: their files are checked, runs are scheduled, resumed and shared, and the report's numbers are right."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from PIL import Image

from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair
from studies.runner import slots
from studies.runner.annotations import annotations_of
from studies.runner.committed import Committed
from studies.runner.data import settled_data
from studies.runner.eta import Durations, budget_seconds, clock, remaining_seconds
from studies.runner.first_weights import write_first_weights
from studies.runner.plan import Plan, make_plan
from studies.runner.processes import hold
from studies.runner.report import write_report
from studies.runner.run_study import report_study, run_study
from studies.runner.spec import StudyError, read_study
from studies.runner.statistics import deviation, paired_difference
from studies.runner.step_seed import StepSeedHook

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "study.py"
STUDIES = sorted((ROOT / "studies").glob("*.yml"))
TINY = ROOT / "studies" / "tiny.yml"
#: of the tiny study, with its pre-training
ARMS = ("pretrain", "teacher", "student", "rekd_pkd")
STUDENT = str(ROOT / "studies/configs/frcnn_student.py")
PAIR = str(ROOT / "studies/configs/frcnn_pair.py")


def content(**changes) -> dict:
    """A valid study; a key set to ... is left out."""
    base = dict(name="s", seeds=[0, 1], baseline="alone", arms={"alone": {"config": STUDENT}, "kd": {"config": PAIR}})
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def write(folder: Path, **changes) -> Path:
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return path


@functools.cache
def shipped_plan(path: Path) -> Plan:
    """Reading all configs of a study takes seconds."""
    return make_plan(read_study(path))


# --- study files ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_shipped_studies_can_be_planned(path):
    study = read_study(path)
    plan = shipped_plan(path)
    assert study.name == path.stem
    assert len(plan.runs) == len(study.arms) * len(study.seeds)
    for run in plan.runs:
        assert (run.teacher is None) == (path.stem == "coco" or not is_pair(run.config.model))
        assert (run.backbone is None) == (study.pretrain is None)
        assert run.length > 1 or path.stem == "tiny"


@pytest.mark.parametrize("path", [p for p in STUDIES if (p.parent / "results" / p.stem).is_dir()], ids=lambda p: p.stem)
def test_committed_results_are_those_of_the_shipped_studies(path):
    """If this fails after a change that makes no difference to a training, the digest has seen something that it should
    not see. If the change does make one, the results are of another training: remove their lines."""
    lines = (path.parent / "results" / path.stem / "results.jsonl").read_text().splitlines()
    digests = {run.digest for run in shipped_plan(path).all()}
    finished = [entry for entry in map(json.loads, lines) if entry["status"] == "ok"]
    assert finished
    assert [f"{entry['arm']}, seed {entry['seed']}" for entry in finished if entry["digest"] not in digests] == []


def test_studies_share_equal_runs():
    plans = [shipped_plan(ROOT / f"studies/groceries_{name}.yml") for name in ("frcnn", "frcnn_losses")]
    served, others = ({run.folder for run in plan.all() if run.serves} for plan in plans)
    assert others < served and len(others) == 3  # the teacher and two backbones; another teacher in the first study
    folders, again = ({(run.arm, run.seed): run.folder for run in plan.runs} for plan in plans)
    shared = folders.keys() & again.keys()
    assert {"student", "kd", "rekd"} <= {arm for arm, _ in shared}
    assert all(folders[key] == again[key] for key in shared)
    assert len(set(folders.values())) == len(folders)  # no two arms or seeds are one run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name=...), "'name' is missing"),
        (dict(name="../up"), "name must be one word"),
        (dict(seed=[0]), "the key 'seed' is unknown; did you mean 'seeds'"),
        (dict(seeds=[]), "seeds must be whole numbers >= 0"),
        (dict(seeds=[True]), "seeds must be whole numbers >= 0"),
        (dict(seeds=[0, 0]), "a seed is given twice"),
        (dict(baseline="no"), r"baseline must be one of the arms \(alone, kd\)"),
        (dict(against=["kd", "no"]), r"against must be a list of arms \(alone, kd\), got \['kd', 'no'\]"),
        (dict(against="kd"), "against must be a list of arms"),
        (dict(arms=["alone"]), "arms must be a mapping"),
        (dict(arms={"alone": {"config": STUDENT, "option": {}}}), "arms.alone: the key 'option' is unknown; did you"),
        (dict(arms={"alone": {"options": {"a": 1}}}), "arms.alone.config must be the path"),
        (dict(arms={"alone": {"config": "gone.py"}}), r"arms.alone.config: '.*gone.py' does not exist"),
        (dict(arms={"alone": {"config": STUDENT, "options": ["a=1"]}}), "arms.alone.options must be a mapping"),
        (dict(arms={"teacher": {"config": STUDENT}}), "'teacher' names a training that the arms build on"),
        (dict(arms={"pretrain": {"config": STUDENT}}), "'pretrain' names a training that the arms build on"),
        (dict(pretrain={"config": STUDENT, "data": {"seed": 1}}), "pretrain: .*'data' is unknown; .* 'data_root'"),
        (dict(pretrain={"config": STUDENT, "seed": -1}), "pretrain.seed must be whole numbers"),
        (dict(data={"preset": "tiny", "images": 3}), "data: the key 'images' is unknown"),
        (dict(data={"seed": 0}), "data: the key 'preset' is missing"),
        (dict(data_root=3), "data_root must be the path of a folder"),
        (dict(arms={"alone": {"config": STUDENT, "validate": -1}}), "arms.alone.validate must be a whole number"),
        (dict(teacher={"config": STUDENT, "seed": -1}), "teacher.seed must be whole numbers"),
    ],
)
def test_mistakes_in_a_study_file_are_named(tmp_path, changes, message):
    with pytest.raises(StudyError, match=message):
        read_study(write(tmp_path, **changes))


def test_a_name_that_is_given_twice_is_an_error(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + f"  kd:\n    config: {PAIR}\n")
    with pytest.raises(StudyError, match="'kd' is given twice"):
        read_study(path)


def test_no_file_and_no_yaml(tmp_path):
    with pytest.raises(StudyError, match=r"gone\.yml' can't be read"):
        read_study(tmp_path / "gone.yml")
    (tmp_path / "broken.yml").write_text("arms: [")
    with pytest.raises(StudyError, match="not valid YAML"):
        read_study(tmp_path / "broken.yml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.distiller.loss.topk": 3}, "arm 'kd': .*topk"),
        ({"model.distiller.loss.top_k": 0}, "arm 'kd': .*top_k must be an int >= 1"),
        ({"optim_wraper.optimizer.lr": 1}, "arm 'kd': .*optim_wraper.*did you mean 'optim_wrapper'"),
    ],
)
def test_options_that_do_not_fit_show_before_anything_is_trained(tmp_path, options, message):
    arms = {"alone": {"config": STUDENT}, "kd": {"config": PAIR, "options": options}}
    with pytest.raises(StudyError, match=message):
        make_plan(read_study(write(tmp_path, arms=arms)))


def test_two_arms_that_are_the_same_are_an_error(tmp_path):
    arms = {"alone": {"config": STUDENT}, "again": {"config": STUDENT}}
    with pytest.raises(StudyError, match=r"arms\.again trains the same as arms\.alone"):
        make_plan(read_study(write(tmp_path, arms=arms)))


@pytest.mark.parametrize("config", [STUDENT, PAIR], ids=["detector", "pair"])
def test_a_detector_can_not_train_the_backbones(tmp_path, config):
    with pytest.raises(StudyError, match=r"pretrain\.config: .*must hold a backbone.*/tiny_imagenet_backbone\.py"):
        make_plan(read_study(write(tmp_path, pretrain={"config": config})))


def test_a_default_that_every_arm_overrides_does_not_make_another_run(tmp_path):
    def digest(default: float) -> str:
        base = tmp_path / "base.py"
        base.write_text(f"_base_ = {PAIR!r}\ndistill = dict(distiller=dict(loss=dict(beta={default})))\n")
        arms = {"kd": {"config": str(base), "options": {"model.distiller.loss.beta": 0.5}}}
        return make_plan(read_study(write(tmp_path, arms=arms, baseline="kd"))).runs[0].digest

    assert digest(0.25) == digest(2.0)


def test_a_pair_can_not_be_the_teacher(tmp_path):
    with pytest.raises(StudyError, match="a teacher learns alone unless it names its own"):
        make_plan(read_study(write(tmp_path, teacher={"config": PAIR})))


# --- equal starts ---------------------------------------------------------------------------


def test_arms_of_one_seed_share_their_first_weights(tmp_path):
    plan = shipped_plan(ROOT / "studies/groceries_frcnn.yml")
    paths = [write_first_weights(run, tmp_path) for run in plan.runs if run.seed < 2 and run.arm in ("student", "kd")]
    assert paths[0] == paths[1] != paths[2] == paths[3]
    one, other = (torch.load(p, weights_only=True)["state_dict"] for p in (paths[0], paths[2]))
    assert not torch.equal(one["roi_head.bbox_head.fc_cls.weight"], other["roi_head.bbox_head.fc_cls.weight"])
    before = paths[0].read_bytes()
    paths[0].unlink()
    write_first_weights(plan.runs[0], tmp_path)
    again = torch.load(paths[0], weights_only=True)["state_dict"]
    assert before and all(torch.equal(again[k], v) for k, v in one.items())


def test_a_steps_random_numbers_depend_on_seed_and_step_alone():
    def draw(seed: int, step: int) -> tuple[float, float, float]:
        torch.rand(step + seed + 1)  # whatever went before
        StepSeedHook().before_train_iter(SimpleNamespace(seed=seed, iter=step), 0)
        return torch.rand(()).item(), np.random.rand(), random.random()

    first = draw(0, 0)
    assert draw(0, 0) == first
    others = [draw(0, 1), draw(1, 0)]
    assert all(a != b for other in others for a, b in zip(first, other, strict=True))


# --- scheduling, with programs that stand in for the training ---------------------------------

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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pretrained):
    """Each backbone of the tiny study with other weights than its first ones, under the name of the first ones."""
    folder = tmp_path_factory.mktemp("trained")
    for run in shipped_plan(pretrained).all():
        if run.arm == "pretrain":
            path = write_first_weights(run, folder)
            weights = {k: v + 1 for k, v in torch.load(path, weights_only=True)["state_dict"].items()}
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


def test_a_study_runs_once(fake, capsys):
    assert fake.study() == 0
    calls = fake.calls()
    assert sorted(call["kind"] for call in calls[:2]) == ["backbone", "backbone"]
    assert sorted(call["kind"] for call in calls[2:]) == ["frcnn_pair", "frcnn_student", "frcnn_teacher"]
    assert calls[-1]["kind"] == "frcnn_pair"  # which needs its teacher
    assert {call["omp"] for call in calls} == {"1"}
    assert not any(call["resume"] for call in calls)
    assert "5 of 5 done; time left: 0:00" in capsys.readouterr().out
    found = fake.results()
    assert {arm: line["status"] for arm, line in found.items()} == dict.fromkeys(ARMS, "ok")
    assert found["pretrain"]["metrics"] == {}
    assert found["rekd_pkd"]["metrics"] == {"bbox_mAP": 0.5, "bbox_mAP_l": -1.0}
    assert found["rekd_pkd"]["versions"]["torch"] == version("torch")
    assert found["rekd_pkd"]["hardware"]["cores"] == os.cpu_count()
    assert len(found["rekd_pkd"]["digest"]) == 64
    assert "| +25.0 | - | - |" in (fake.root / "tiny" / "report.md").read_text()

    assert fake.study() == 0
    assert not fake.calls()


def test_a_run_gets_its_own_config(fake):
    fake.study()
    folders = {line["arm"]: fake.root / "runs" / line["folder"] for line in fake.results().values()}
    student, pair, teacher = (Config.fromfile(folders[arm] / "config.py") for arm in ("student", "rekd_pkd", "teacher"))
    for cfg in (student, pair, teacher):
        assert cfg.runner_type == "ReKDRunner"
        assert cfg.randomness.seed == 0
        assert cfg.custom_hooks[-1].type == "StepSeedHook"
        assert Path(cfg.train_dataloader.dataset.data_root, "annotations/instances_train2017.json").is_file()
        assert Path(cfg.test_evaluator.ann_file).is_file()
        assert cfg.train_cfg.max_epochs == 1
    assert student.load_from == pair.load_from != teacher.load_from
    assert student.model == pair.model.architecture
    assert pair.model.teacher.cfg_path == str(folders["teacher"] / "config.py")
    assert pair.model.teacher_ckpt == str(folders["teacher"] / "epoch_1.pth")


def test_detectors_start_from_their_trained_backbones(fake):
    fake.study()
    folders = {line["arm"]: fake.root / "runs" / line["folder"] for line in fake.results().values()}
    for arm in ("teacher", "student"):
        cfg = Config.fromfile(folders[arm] / "config.py")
        backbone = torch.load(folders["pretrain"] / "epoch_1.pth", weights_only=True)["state_dict"]
        start = torch.load(cfg.load_from, weights_only=True)["state_dict"]
        others = torch.load(re.sub("-backbone.*", ".pth", cfg.load_from), weights_only=True)["state_dict"]
        assert start.keys() == others.keys()
        own = {k for k in start if k.startswith("backbone.")}
        assert all(torch.equal(start[k], others[k]) for k in start.keys() - own)
        # Of the two backbones one has the student's width.
        fits = [k for k in own if start[k].shape == backbone[k].shape]
        if len(fits) == len(own):
            assert all(torch.equal(start[k], backbone[k]) for k in own)
            assert not all(torch.equal(start[k], others[k]) for k in own)


def test_only_some_arms(fake):
    fake.study(only=["student"])
    assert [call["kind"] for call in fake.calls()] == ["backbone", "frcnn_student"]
    assert fake.results()["rekd_pkd"]["status"] == "not run"
    with pytest.raises(StudyError, match="no arm is called 'kd'; there are student, rekd_pkd"):
        fake.study(only=["kd"])


def test_a_failed_run_is_reported_and_tried_again(fake):
    (fake.tools / "fail").write_text("frcnn_pair")
    assert fake.study() == 1
    found = fake.results()
    assert found["rekd_pkd"]["status"] == "failed"
    assert "exit status 1" in found["rekd_pkd"]["error"] and "no disk" in found["rekd_pkd"]["error"]
    assert found["student"]["status"] == "ok"
    report = (fake.root / "tiny" / "report.md").read_text()
    assert "rekd_pkd: ReKD and PKD together | 0 of 1 |" in report
    assert "## What failed" in report and "no disk" in report
    assert "unfinished" in report

    (fake.tools / "fail").unlink()
    fake.calls()
    assert fake.study() == 0
    assert fake.calls() == [{"kind": "frcnn_pair", "resume": True, "omp": "1"}]
    assert fake.results()["rekd_pkd"]["starts"] == 2
    assert "of its last part" in (fake.root / "tiny" / "report.md").read_text()


def test_without_its_teacher_a_pair_fails_and_the_student_does_not(fake, capsys):
    (fake.tools / "fail").write_text("frcnn_teacher")
    assert fake.study() == 2
    assert {call["kind"] for call in fake.calls()} == {"backbone", "frcnn_teacher", "frcnn_student"}
    assert {arm: line["status"] for arm, line in fake.results().items()} == {
        "pretrain": "ok",
        "teacher": "failed",
        "student": "ok",
        "rekd_pkd": "not run",
    }
    assert "its teacher could not be trained" in capsys.readouterr().out


def test_a_teacher_whose_checkpoint_is_gone_is_trained_again_where_a_run_needs_it(fake):
    fake.study()
    fake.calls()
    folders = {arm: fake.root / "runs" / line["folder"] for arm, line in fake.results().items()}
    (folders["teacher"] / "epoch_1.pth").unlink()
    fake.study()
    assert fake.calls() == []
    shutil.rmtree(folders["rekd_pkd"])
    fake.study()
    assert [call["kind"] for call in fake.calls()] == ["frcnn_teacher", "frcnn_pair"]


def test_without_its_backbone_nothing_is_trained(fake, capsys):
    (fake.tools / "fail").write_text("backbone")
    assert fake.study() == 5
    assert {call["kind"] for call in fake.calls()} == {"backbone"}
    assert "its backbone could not be trained (tiny_imagenet_backbone-seed0-" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stop_while_a_config_is_written_is_a_stop(fake, monkeypatch):
    dump = Config.dump

    def interrupted(self, file):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        except BaseException as error:  # as mmengine does
            raise SyntaxError("Failed to format the config file") from error
        dump(self, file)

    monkeypatch.setattr(Config, "dump", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fake.study(jobs=1, only=["student"])
    assert fake.calls() == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()
    assert fake.study(only=["student"]) == 0


def test_a_stopped_study_ends_its_programs_and_goes_on(fake):
    hang = fake.tools / "hang"
    hang.touch()

    def stop() -> None:
        while hang.read_text() != "now":
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fake.study(jobs=1, only=["student"])
    assert time.monotonic() - start < 50  # the program would have slept for 60
    hang.unlink()
    fake.calls()
    fake.report()
    lines = [json.loads(x) for x in (fake.root / "tiny/results.jsonl").read_text().splitlines()]
    # The student's backbone was at work; the teacher's was not asked for.
    assert sorted(x["status"] for x in lines if x["arm"] == "pretrain") == ["interrupted", "not run"]
    assert fake.results()["student"]["status"] == "not run"

    assert fake.study(only=["student"]) == 0
    assert fake.calls() == [
        {"kind": "backbone", "resume": True, "omp": "1"},
        {"kind": "frcnn_student", "resume": False, "omp": "1"},
    ]
    assert fake.results()["student"]["status"] == "ok"


def test_a_hung_training_is_killed_and_the_study_goes_on(fake, capsys):
    (fake.tools / "hang").touch()
    start = time.monotonic()
    assert fake.study(jobs=1, only=["student"], silence_s=3) == 2  # the backbone, and the student that needs it
    assert time.monotonic() - start < 50  # the program would have slept for 60
    (fake.tools / "hang").unlink()
    fake.report()
    lines = [json.loads(x) for x in (fake.root / "tiny/results.jsonl").read_text().splitlines()]
    (hung,) = (x for x in lines if x["status"] == "failed")
    assert hung["error"].startswith("hung: it had no output for 0.05 min and was killed")
    assert fake.study(only=["student"]) == 0


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        *(
            pytest.param(line, marks=pytest.mark.slow)
            for line in ("[]", '{"digest": "{digest}", "result": 7}', '{"digest": "{digest}", "starts": "x"}')
        ),
    ],
)
def test_a_damaged_result_costs_that_run_alone(fake, damage):
    assert fake.study() == 0
    fake.calls()
    (stamp,) = fake.root.glob("runs/frcnn_student-*/run.json")
    stamp.write_text(damage.replace("{digest}", json.loads(stamp.read_text())["digest"]))
    fake.report()
    assert fake.results()["student"]["status"] == "not run"
    assert fake.study() == 0
    assert [call["kind"] for call in fake.calls()] == ["frcnn_student"]
    assert fake.results()["student"]["status"] == "ok"


def test_metrics_that_can_not_be_read_fail_that_run_alone(fake):
    (fake.tools / "test.py").write_text(FAKE_TEST.replace("json.dumps(", '"{" + json.dumps('))
    assert fake.study() > 0
    assert "can't be read" in fake.results()["student"]["error"]
    (fake.tools / "test.py").write_text(FAKE_TEST)
    assert fake.study() == 0


def test_two_studies_do_not_work_in_one_folder(fake):
    fake.root.mkdir()
    with hold(fake.root), pytest.raises(StudyError, match="a study is at work"):
        fake.study()


def test_places(monkeypatch):
    with pytest.raises(InputError, match="--jobs must be at least 1, got 0"):
        slots.make_slots(0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert [s.get("CUDA_VISIBLE_DEVICES") for s in slots.make_slots(None)] == [None, None]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots.make_slots(None)] == ["3", "5"]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots.make_slots(3)] == ["3", "5", "3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots.make_slots(1)] == ["0"]


def test_the_time_left():
    # 3 x 100 s wait and 60 s are left of one.
    assert remaining_seconds([100.0, 100.0, 100.0], [(100.0, 40.0)], 2) == pytest.approx(180.0)
    # One long run can't be shared by the places.
    assert remaining_seconds([], [(100.0, 10.0), (100.0, 90.0)], 2) == pytest.approx(90.0)
    assert [clock(s) for s in (5, 65, 3723)] == ["0:05", "1:05", "1:02:03"]


def test_a_run_is_expected_to_take_what_others_of_its_kind_took_for_each_epoch():
    def run(kind: str, length: int) -> SimpleNamespace:
        return SimpleNamespace(kind=kind, length=length)

    known = Durations()
    assert known.expected(run("a", 4)) is None
    known.add(run("a", 4), 100.0)
    known.add(run("a", 8), 280.0)
    assert known.of_kind(run("a", 2)) == pytest.approx(60.0)
    assert known.of_kind(run("b", 2)) is None
    assert known.expected(run("b", 2)) == pytest.approx(190.0)


# --- several sittings -----------------------------------------------------------------------


@pytest.fixture
def sitting(fake, pretrained, tmp_path, monkeypatch):
    """``sitting(out, *arguments)`` calls tools/study.py with the fake programs; ``keep(out)`` commits what it gave."""
    tool = fake.tools / "study.py"
    tool.write_text(TOOL.read_text())
    results = tmp_path / "results"

    def call(out: str, *arguments: str) -> None:
        command = ["study.py", str(pretrained), "--out", str(tmp_path / out), "--results", str(results), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(str(tool), run_name="__main__")

    def keep(out: str, change=lambda lines: lines) -> None:
        lines = (tmp_path / out / "tiny/results.jsonl").read_text().splitlines()
        (results / "tiny").mkdir(parents=True, exist_ok=True)
        (results / "tiny" / "results.jsonl").write_text("".join(f"{line}\n" for line in change(lines)))

    return SimpleNamespace(call=call, keep=keep, calls=fake.calls, tools=fake.tools, root=tmp_path)


def test_committed_results_count_where_their_folders_are_gone(sitting, capsys):
    sitting.call("a")
    sitting.keep("a")
    sitting.calls()
    sitting.call("b")
    assert sitting.calls() == []
    assert not (sitting.root / "b/data").exists() and not list((sitting.root / "b/first_weights").iterdir())
    assert "5 runs, 5 of them finished before" in capsys.readouterr().out
    first, again = ((sitting.root / out / "tiny/results.jsonl").read_text() for out in "ab")
    assert again == first
    assert "5 of 5 runs are finished." in (sitting.root / "b/tiny/report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "kinds"),
    [
        ("student", ["backbone", "frcnn_student"]),
        ("rekd_pkd", ["backbone", "backbone", "frcnn_pair", "frcnn_teacher"]),
        ("teacher", ["backbone", "frcnn_teacher"]),
    ],
)
def test_what_a_missing_run_builds_on_is_trained_again_and_nothing_else(sitting, missing, kinds):
    sitting.call("a")
    sitting.keep("a", lambda lines: [line for line in lines if json.loads(line)["arm"] != missing])
    sitting.calls()
    sitting.call("b", "--report")
    report = (sitting.root / "b/tiny/report.md").read_text()
    assert "## Missing" in report and f"| {missing} | 0 (not run) |" in report
    sitting.call("b")
    assert sorted(call["kind"] for call in sitting.calls()) == kinds
    assert "## Missing" not in (sitting.root / "b/tiny/report.md").read_text()


def test_a_committed_line_that_is_broken_costs_that_run_alone(sitting):
    sitting.call("a")
    sitting.calls()

    def damage(lines: list[str]) -> list[str]:
        return [line[:-20] if json.loads(line)["arm"] == "student" else line for line in lines]

    sitting.keep("a", damage)
    with pytest.warns(UserWarning, match=r"results\.jsonl', line \d: skipped"):
        sitting.call("b")
    assert [call["kind"] for call in sitting.calls()] == ["backbone", "frcnn_student"]


def test_runs_that_failed_do_not_count(sitting):
    (sitting.tools / "fail").write_text("frcnn_student")
    with pytest.raises(SystemExit):
        sitting.call("a")
    (sitting.tools / "fail").unlink()
    sitting.keep("a")
    sitting.calls()
    sitting.call("b")
    assert [call["kind"] for call in sitting.calls()] == ["backbone", "frcnn_student"]


def test_a_budget_ends_a_sitting_and_the_next_one_goes_on(sitting, capsys):
    (sitting.tools / "hang").touch()
    start = time.monotonic()
    sitting.call("a", "--budget", "4s", "--only", "student")
    assert time.monotonic() - start < 50  # the program would have slept for 60
    assert "the budget is spent; 2 runs are missing" in capsys.readouterr().out
    report = (sitting.root / "a/tiny/report.md").read_text()
    assert "| student | 0 (not run) |" in report
    started = "0 (interrupted)" in report  # not on a machine that is so busy that the budget is spent before
    (sitting.tools / "hang").unlink()
    sitting.calls()
    sitting.call("a", "--budget", "10m", "--only", "student")
    assert [(call["kind"], call["resume"]) for call in sitting.calls()] == [
        ("backbone", started),
        ("frcnn_student", False),
    ]


@pytest.mark.slow
def test_a_run_that_does_not_fit_into_the_budget_is_not_started(sitting, pretrained, monkeypatch, capsys):
    study = read_study(pretrained)
    two_seeds = make_plan(dataclasses.replace(study, seeds=(0, 1)))
    monkeypatch.setattr("studies.runner.run_study.make_plan", lambda _: two_seeds)
    sitting.call("a", "--only", "rekd_pkd")

    def slow(lines: list[str]) -> list[str]:
        found = [json.loads(line) for line in lines]
        return [
            json.dumps(line | {"wall_s": 5000.0}) for line in found if (line["arm"], line["seed"]) == ("rekd_pkd", 0)
        ]

    sitting.keep("a", slow)
    sitting.calls()
    sitting.call("b", "--budget", "1h")  # a pair takes 5000 s
    assert "frcnn_pair" not in [call["kind"] for call in sitting.calls()]
    assert "the budget is spent; 1 runs are missing" in capsys.readouterr().out
    assert "| rekd_pkd | 1 (not run) | 83 |" in (sitting.root / "b/tiny/report.md").read_text()
    sitting.call("b", "--budget", "2h")
    assert [call["kind"] for call in sitting.calls()] == ["frcnn_pair"]


def test_budgets():
    assert [budget_seconds(text) for text in ("90m", "2h", "1h30m", "1.5h", "45s")] == [5400, 7200, 5400, 5400, 45]
    for text in ("", "90", "soon", "0m", "-5m"):
        with pytest.raises(StudyError, match="--budget must be a time such as 90m"):
            budget_seconds(text)


# --- digests --------------------------------------------------------------------------------


def digest(folder: Path, text: str, **changes) -> str:
    """Of the one run of a study whose arm is a config of this text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.py").write_text(text)
    arms = {"kd": {"config": str(folder / "config.py"), **changes}}
    return make_plan(read_study(write(folder, arms=arms, baseline="kd", seeds=[0]))).runs[0].digest


def test_a_digest_knows_no_paths(tmp_path):
    student = f"_base_ = {str(ROOT / 'studies/configs/groceries_frcnn_student.py')!r}\n"
    here = digest(tmp_path / "a", student)
    for root in ("/elsewhere/groceries/", "../groceries"):
        moved = f"data_root = {root!r}\nloader = dict(dataset=dict(data_root=data_root))\n"
        moved += "train_dataloader = test_dataloader = val_dataloader = loader\n"
        moved += f"test_evaluator = dict(ann_file={os.path.join(root, 'annotations/instances_val.json')!r})\n"
        assert digest(tmp_path / "b", student + moved) == here
    own = [
        "work_dir = 'elsewhere'\nvariable = 3\nlog_level = 'ERROR'",
        "custom_imports = dict(imports=['rekd_det.version'])",
        "val_evaluator = dict(classwise=True)\ntrain_cfg = dict(val_interval=1)",
        "train_dataloader = dict(num_workers=0, pin_memory=True)\ndefault_hooks = dict(logger=dict(interval=3))",
    ]
    for text in own:
        assert digest(tmp_path / "c", f"{student}{text}\n") == here
    other = [
        "optim_wrapper = dict(optimizer=dict(lr=0.5))",
        "test_evaluator = dict(ann_file='data/groceries/annotations/instances_train.json')",
        "train_dataloader = dict(batch_size=3)",
        "custom_hooks = [dict(type='EMAHook')]",
        "load_from = '/weights/first.pth'",
    ]
    digests = [digest(tmp_path / "d", f"{student}{text}\n") for text in other]
    assert len({here, *digests}) == 1 + len(other)
    assert digest(tmp_path / "d", f"{student}load_from = 'https://x/first.pth'\n") == digests[-1]


def test_a_pairs_own_teacher_is_what_its_config_says_wherever_it_lies(tmp_path):
    def pair(place: Path, width: int) -> str:
        place.mkdir(parents=True, exist_ok=True)
        teacher = place / "teacher.py"
        base = ROOT / "studies/configs/frcnn_student.py"
        teacher.write_text(f"_base_ = {str(base)!r}\nmodel = dict(backbone=dict(base_channels={width}))\n")
        checkpoint = str(place / "teacher.pth")
        return digest(
            place,
            f"_base_ = {PAIR!r}\nmodel = dict(teacher=dict(cfg_path={str(teacher)!r}), teacher_ckpt={checkpoint!r})",
        )

    assert pair(tmp_path / "a", 32) == pair(tmp_path / "b", 32) != pair(tmp_path / "c", 64)


def test_a_result_on_other_annotations_does_not_count(tmp_path):
    config = ROOT / "studies/configs/groceries_frcnn_student.py"
    study = read_study(write(tmp_path, data_root="data", arms={"alone": {"config": str(config)}}, seeds=[0]))
    (run,) = make_plan(study).runs
    settled = settled_data(run)
    assert settled.train_dataloader.dataset.data_root == f"{tmp_path}/data/"
    assert settled.test_evaluator.ann_file == f"{tmp_path}/data/annotations/instances_val.json"
    assert settled.train_dataloader.dataset.pipeline[2].scale == (128, 128)  # and no list
    told = line("alone", 0, 0.25, digest=run.digest, annotations={"train": "1" * 64, "test": "2" * 64})
    (tmp_path / "results/x").mkdir(parents=True)
    (tmp_path / "results/x/results.jsonl").write_text(json.dumps(told) + "\n")
    assert (
        Committed(tmp_path / "results").of(run)["metrics"] == told["metrics"]
    )  # no data here: it can only be believed
    (tmp_path / "data/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"data/annotations/instances_{split}.json").write_text("{}")
    assert Committed(tmp_path / "results").of(run) is None
    told["annotations"] = annotations_of(run)
    (tmp_path / "results/x/results.jsonl").write_text(json.dumps(told) + "\n")
    assert Committed(tmp_path / "results").of(run)["metrics"] == told["metrics"]


def test_data_that_is_not_there_shows_before_anything_is_trained(tmp_path):
    config = ROOT / "studies/configs/groceries_frcnn_student.py"
    path = write(tmp_path, data_root="data", arms={"alone": {"config": str(config)}}, seeds=[0])
    with pytest.raises(
        StudyError, match=r"alone: .*/data/annotations/instances_train\.json' does not exist.*data_root"
    ):
        run_study(read_study(path), tmp_path / "out", tmp_path)
    assert not (tmp_path / "out/runs").exists()


# --- the report -----------------------------------------------------------------------------


def test_the_interval_is_the_one_of_a_table():
    # Differences 1, 2, 3: s = 1, t(0.975, 2) = 4.30265, half width 4.30265 / sqrt(3).
    found = paired_difference({0: 11.0, 1: 14.0, 2: 13.0, 3: 99.0}, {0: 10.0, 1: 12.0, 2: 10.0})
    assert found.by_seed == {0: 1.0, 1: 2.0, 2: 3.0}
    assert found.mean == pytest.approx(2.0)
    assert found.half_width == pytest.approx(2.48414, abs=1e-5)
    assert not found.excludes_zero
    # Two seeds: t(0.975, 1) = 12.7062, s = 0.7071068, half width 6.3531.
    assert paired_difference({0: 8.0, 1: 9.0}, {0: 0.0, 1: 0.0}).half_width == pytest.approx(6.3531, abs=1e-4)
    assert paired_difference({0: 8.0, 1: 9.0}, {0: 0.0, 1: 0.0}).excludes_zero
    one = paired_difference({0: 8.0}, {0: 7.0})
    assert (one.mean, one.half_width, one.excludes_zero) == (1.0, None, False)
    assert paired_difference({0: 8.0}, {1: 7.0}) is None


def test_the_deviation_is_that_of_a_sample():
    assert deviation([2.0, 4.0, 6.0]) == pytest.approx(2.0)
    assert deviation([2.0]) is None


def line(arm: str, seed: int, value: float | None, **changes) -> dict:
    base = dict(arm=arm, seed=seed, status="ok", starts=1, digest="d", folder="f")
    if value is None:
        return base | dict(status="failed", error="loss_cls is NaN") | changes
    metrics = {"bbox_mAP": value, "bbox_mAP_50": 2 * value, "bbox_mAP_l": -1.0}
    told = dict(wall_s=90.0, device="cpu", hardware=dict(cpu="C", cores=2, gpus=[]), versions=dict(torch="2"))
    return base | dict(metrics=metrics) | told | changes


@pytest.fixture
def reported(tmp_path):
    arms = {
        "alone": {"config": STUDENT, "about": "nothing"},
        "kd": {"config": PAIR},
        "broken": {"config": PAIR},
        "late": {"config": PAIR},
    }
    study = read_study(write(tmp_path, seeds=[0, 1, 2], arms=arms, against=["kd"]))
    results = [
        *(line("alone", seed, value) for seed, value in enumerate((0.10, 0.12, 0.10))),
        *(line("kd", seed, value) for seed, value in enumerate((0.11, 0.14, 0.13))),
        *(line("broken", seed, None) for seed in range(3)),
        *(line("late", seed, None, status="not run") for seed in range(3)),
    ]
    for entry in results[-3:]:
        del entry["error"]
    write_report(study, results, tmp_path)
    return tmp_path


def test_the_report_has_every_arm_and_the_right_numbers(reported):
    text = (reported / "report.md").read_text()
    assert "6 of 12 runs are finished. **This report is of an unfinished study.**" in text
    assert "| alone: nothing | 3 of 3 | 10.7 | 1.2 | baseline |  |  |" in text
    assert "| kd | 3 of 3 | 12.7 | 1.5 | +2.0 | -0.5 to +4.5 | no |" in text
    assert "| broken | 0 of 3 | - | - | - | - | - |" in text
    assert "| late | 0 of 3 | - | - | - | - | - |" in text
    _, _, against = text.partition("differences to **kd**")
    assert "| kd | 3 of 3 | 12.7 | 1.5 | baseline |  |  |" in against
    assert "| alone: nothing | 3 of 3 | 10.7 | 1.2 | -2.0 | -4.5 to +0.5 | no |" in against
    assert "| kd | 12.7 | 25.3 | - |" in text  # no objects of that size: not -100
    assert text.count("loss_cls is NaN") == 3
    assert "t interval" in text
    assert (reported / "bbox.png").read_bytes().startswith(b"\x89PNG")


def test_the_tables_hold_the_same(reported):
    with (reported / "summary.csv").open() as file:
        rows = {(row["arm"], row["metric"]): row for row in csv.DictReader(file)}
    kd = rows["kd", "bbox_mAP"]
    assert (kd["seeds"], kd["paired"]) == ("3", "3")
    assert float(kd["difference"]) == pytest.approx(0.02)
    assert float(kd["low"]) == pytest.approx(0.02 - 0.0248414, abs=1e-6)
    assert float(kd["high"]) == pytest.approx(0.02 + 0.0248414, abs=1e-6)
    assert rows["broken", "bbox_mAP"]["mean"] == ""
    with (reported / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 12
    assert [run["status"] for run in runs[::3]] == ["ok", "ok", "failed", "not run"]
    assert runs[0]["bbox_mAP_l"] == ""


def test_a_report_of_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study.py", str(write(tmp_path)), "--out", str(tmp_path), "--report"])
    runpy.run_path(str(TOOL), run_name="__main__")
    assert f"report: {tmp_path / 's' / 'report.md'}" in capsys.readouterr().out
    text = (tmp_path / "s" / "report.md").read_text()
    assert "0 of 4 runs are finished" in text
    assert "| kd | 0 of 2 | - | - | - | - | - |" in text
    assert "No run has finished." in text


def test_a_report_of_some_arms_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study.py", str(write(tmp_path)), "--report", "--only", "kd"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOOL), run_name="__main__")
    assert "--report covers all arms; leave out --only" in capsys.readouterr().err


# --- all of it ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_study_from_end_to_end(pretrained, tmp_path):
    command = [sys.executable, str(TOOL), str(pretrained), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
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
    done = subprocess.run(
        [sys.executable, str(TOOL), str(write(tmp_path, seeds=3))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: study '{tmp_path / 'study.yml'}': seeds must be whole numbers")
