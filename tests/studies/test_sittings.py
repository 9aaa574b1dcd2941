"""A study that is done in several sittings, on several machines."""

from __future__ import annotations

import functools
import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from study_files import TOOL

from rekd_det.utils.errors import InputError
from rekd_det.utils.read_as_data import load_plain
from studies.runner.eta import budget_seconds
from studies.runner.plan import make_plan


@pytest.fixture
def sitting(fake, pretrained, tmp_path, run_tool):
    """``sitting(out, *arguments)`` calls tools/study.py with the fake programs; ``keep(out)`` commits what it gave."""
    tool = fake.tools / "study.py"
    tool.write_text(TOOL.read_text())
    results = tmp_path / "results"
    results.mkdir()

    def call(out: str, *arguments: str, study: Path = pretrained) -> None:
        run_tool(tool, study, "--out", tmp_path / out, "--results", results, *arguments)

    def keep(out: str, change=lambda lines: lines) -> None:
        lines = (tmp_path / out / "tiny/results.jsonl").read_text().splitlines()
        (results / "tiny").mkdir(exist_ok=True)
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


def train_backbones_otherwise(tools: Path) -> None:
    """From now on the fake trainings of backbones give slightly other weights."""
    trained = tools / "trained"
    changed = {path.name: load_plain(path) for path in trained.iterdir()}
    trained.unlink()  # a link to what all tests share
    trained.mkdir()
    for name, content in changed.items():
        weights = content["state_dict"]
        first = min(name for name in weights if name.startswith("backbone."))
        weights[first] = weights[first] + 1e-6
        torch.save(content, trained / name)


def test_the_report_says_if_a_backbone_was_built_with_other_weights(sitting):
    sitting.call("a")
    sitting.keep("a", lambda lines: [line for line in lines if json.loads(line)["arm"] != "student"])

    def report(out: str) -> str:
        sitting.call(out)
        return (sitting.root / out / "tiny/report.md").read_text()

    again = re.compile(r"\*\*`tiny_imagenet_backbone-\S+` was trained again in between\*\*")
    assert not again.search(report("b"))  # with the same weights, on another day
    train_backbones_otherwise(sitting.tools)
    assert len(again.findall(report("c"))) == 1


def test_a_student_starts_from_the_backbone_that_is_there_now(sitting):
    def starts_from() -> dict[str, torch.Tensor]:
        sitting.call("a")
        (config,) = (sitting.root / "a/runs").glob("frcnn_student-*/config.py")
        return load_plain(re.search("load_from ?= ?'(.+?)'", config.read_text())[1])["state_dict"]

    before = starts_from()
    train_backbones_otherwise(sitting.tools)
    for folder in (sitting.root / "a/runs").iterdir():
        shutil.rmtree(folder)
    after = starts_from()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["backbone.bn1.bias"]


def test_a_committed_line_that_is_broken_costs_that_run_alone(sitting):
    sitting.call("a")
    sitting.calls()

    def damage(lines: list[str]) -> list[str]:
        return [line[:-20] if json.loads(line)["arm"] == "student" else line for line in lines]

    sitting.keep("a", damage)
    with pytest.warns(UserWarning, match=r"results\.jsonl', line \d: skipped"):
        sitting.call("b")
    assert [call["kind"] for call in sitting.calls()] == ["backbone", "frcnn_student"]


def test_folders_that_can_not_be_meant(sitting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/tiny").mkdir()
    (tmp_path / "results/tiny/results.jsonl").write_text("")
    (tmp_path / "file").write_text("")
    for options, says in (
        (["--results", "nowhere"], "--results 'nowhere' is no folder"),
        (["--results", "results/tiny"], "--results 'results/tiny' holds one study's results: give 'results'"),
        (["--out", "file"], r"file' cannot be written \(File exists\): choose another with --out"),
    ):
        with pytest.raises(SystemExit, match=says):
            sitting.call("a", "--report", *options)


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
    monkeypatch.setattr("studies.runner.run_study.make_plan", make_plan)  # of the file that is given
    study = pretrained.with_name("two_seeds.yml")
    study.write_text(re.sub(r"( (student|rekd_pkd):\n)", r"\1    seeds: [0, 1]\n", pretrained.read_text()))
    call = functools.partial(sitting.call, study=study)
    call("a", "--only", "rekd_pkd")

    def slow(lines: list[str]) -> list[str]:
        found = [json.loads(line) for line in lines]
        return [
            json.dumps(line | {"wall_s": 5000.0}) for line in found if (line["arm"], line["seed"]) == ("rekd_pkd", 0)
        ]

    sitting.keep("a", slow)
    sitting.calls()
    call("b", "--budget", "1h")  # a pair takes 5000 s
    assert "frcnn_pair" not in [made["kind"] for made in sitting.calls()]
    assert "nothing more fits into the budget; 1 runs are missing" in capsys.readouterr().out
    report = (sitting.root / "b/tiny/report.md").read_text()
    assert "| rekd_pkd | 1 (not run) | 83 |" in report
    assert "| student: the student alone | 2 of 2 |" in report
    assert "| rekd_pkd: ReKD and PKD together | 1 of 2 |" in report
    call("b", "--budget", "2h")
    assert [made["kind"] for made in sitting.calls()] == ["frcnn_pair"]


def test_budgets():
    assert [budget_seconds(text) for text in ("90m", "2h", "1h30m", "1.5h", "45s")] == [5400, 7200, 5400, 5400, 45]
    for text in ("", "90", "soon", "0m", "-5m"):
        with pytest.raises(InputError, match="--budget must be a time such as 90m"):
            budget_seconds(text)


@pytest.mark.slow
def test_the_budget_is_not_judged_by_other_machines(sitting):
    sitting.call("a")

    def slow_elsewhere(lines: list[str]) -> list[str]:
        found = [json.loads(text) for text in lines]
        elsewhere = dict(cpu="another", cores=64, gpus=["A100"])
        return [json.dumps(of | dict(wall_s=9e4, hardware=elsewhere)) for of in found if of["arm"] != "rekd_pkd"]

    sitting.keep("a", slow_elsewhere)
    sitting.calls()
    sitting.call("b", "--budget", "1h")
    assert [call["kind"] for call in sitting.calls()] == ["backbone", "backbone", "frcnn_teacher", "frcnn_pair"]


@pytest.mark.slow
def test_a_committed_teacher_that_can_not_be_trained_again_is_told(sitting):
    sitting.call("a")
    sitting.keep("a", lambda lines: [text for text in lines if '"rekd_pkd"' not in text])
    (sitting.tools / "fail").write_text("frcnn_teacher")
    with pytest.raises(SystemExit):
        sitting.call("b")
    report = (sitting.root / "b/tiny/report.md").read_text()
    assert "## What failed" in report and "no disk" in report
