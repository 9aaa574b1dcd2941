"""A forged checkpoint, whatever way it comes to the command line: refused by name, or read without running it."""

import os
import shutil
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from forged import Call
from http_folder import http_folder
from tiny_pair import TinyPair, write_tiny_pair

from rekd_det.utils.read_as_data import load_plain

TRACE = "made-by-a-checkpoint"
RUNS = f"import os\nos.mkdir({TRACE!r})\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> TinyPair:
    """A sound pair, its trained checkpoint, and forged files in ``site``."""
    pair = write_tiny_pair(tmp_path_factory.mktemp("pair"))
    site = pair.folder / "site"
    site.mkdir()
    checkpoint = torch.load(pair.folder / "teacher.pth", weights_only=True)
    torch.save({**checkpoint, "meta": Call(os.mkdir, TRACE)}, site / "code.pth")
    # Its meta keeps the config that a resume would run: the `pop` that should remove it is the file's own.
    meta = OrderedDict(checkpoint["meta"], config=RUNS, epoch=0, iter=0)
    meta.__dict__["pop"] = Counter
    torch.save({**checkpoint, "meta": meta}, site / "hidden.pth")
    return pair


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("mmengine.runner.loops.time.sleep", lambda seconds: None)
    return tmp_path


WAYS = {
    "teacher_ckpt": ("train.py", "pair", ["--cfg-options", "model.teacher_ckpt={code}"]),
    "load_from": ("train.py", "pair", ["--cfg-options", "load_from={code}"]),
    "load_from of a plain detector": ("train.py", "student", ["--cfg-options", "load_from={code}"]),
    "resume": ("train.py", "pair", ["--resume", "{code}"]),
    "init_cfg": (
        "train.py",
        "pair",
        [
            "--cfg-options",
            "model.architecture.neck.init_cfg.type=Pretrained",
            "model.architecture.neck.init_cfg.checkpoint={code}",
        ],
    ),
    "test": ("test.py", "student", ["{code}"]),
    "test a teacher": ("test.py", "pair", ["{code}", "--teacher"]),
    "test a teacher by its config": ("test.py", "pair", ["--teacher", "--cfg-options", "model.teacher_ckpt={code}"]),
    "check": ("check_pair.py", "pair", ["--cfg-options", "model.teacher_ckpt={code}"]),
    "analyse": (
        "analysis/head_tail.py",
        "pair",
        ["--checkpoint", "{code}", "--limit", "1", "--workers", "0", "--out", "report"],
    ),
    "export": ("export_student.py", None, ["{code}", "-o", "x.pth"]),
}


@pytest.mark.parametrize(
    ("by", "name", "carried"),
    [("url", "code", "posix.mkdir"), ("file", "code", "posix.mkdir"), ("file", "hidden", "OrderedDict")],
)
@pytest.mark.parametrize("way", WAYS)
def test_refused_by_name(way, by, name, carried, pair, here, run_tool, capsys):
    tool, config, arguments = WAYS[way]
    with http_folder(pair.folder / "site") as (address, _):
        code = f"{address}/{name}.pth" if by == "url" else f"{pair.folder}/site/{name}.pth"
        named = [getattr(pair, config)] if config else []
        with pytest.raises(SystemExit) as left:
            run_tool(tool, *named, *(a.format(code=code) for a in arguments))
    said = f"{left.value.code}\n{capsys.readouterr().out}"
    assert f"checkpoint '{code}' carries code ({carried})" in said
    assert left.value.code != 0
    assert not Path(TRACE).exists()


def test_a_checkpoint_that_a_resume_finds_is_refused(pair, here, run_tool, capsys):
    (here / "run").mkdir()
    shutil.copy(pair.folder / "site/code.pth", here / "run/iter_2.pth")
    with pytest.raises(SystemExit) as left:
        run_tool("train.py", pair.pair, "--work-dir", "run", "--resume")
    assert "checkpoint 'run/iter_2.pth' carries code (posix.mkdir)" in f"{left.value.code}\n{capsys.readouterr().out}"
    assert not Path(TRACE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["ReKDRunner", "Runner"])
@pytest.mark.parametrize("by", ["url", "file"])
def test_a_resumed_run_does_not_run_the_config_of_its_checkpoint(runner, by, pair, here, run_tool):
    common = ["--cfg-options", f"runner_type={runner}", "val_dataloader=None", "val_cfg=None", "val_evaluator=None"]
    run_tool("train.py", pair.pair, "--work-dir", "first", *common)
    checkpoint = load_plain("first/iter_2.pth")
    checkpoint["meta"].update(config=RUNS, cfg=RUNS)
    checkpoint["message_hub"]["runtime_info"]["cfg"] = RUNS
    torch.save(checkpoint, "forged.pth")
    with http_folder(here) as (address, _):
        source = f"{address}/forged.pth" if by == "url" else "forged.pth"
        more = ["--resume", source, *common, "train_cfg.max_iters=4"]
        run_tool("train.py", pair.pair, "--work-dir", "second", *more)
    assert load_plain("second/iter_4.pth")["meta"]["iter"] == 4
    assert not Path(TRACE).exists()
