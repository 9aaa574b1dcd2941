"""Studies of several teachers and several pairs, and trainings that take several GPUs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from study_files import PAIR, ROOT, STUDENT, TEACHER, write

from rekd_det.utils.errors import InputError
from studies.runner.gpu_hours import IMAGES
from studies.runner.launcher import Launcher
from studies.runner.plan import make_plan
from studies.runner.report import write_report
from studies.runner.run import with_needs
from studies.runner.study_file import read_study


def study(folder: Path, **changes):
    return read_study(write(folder, **{"seeds": [0], **changes}))


# --- several teachers -----------------------------------------------------------------------


def test_arms_name_their_teachers_and_a_teacher_its_own(tmp_path):
    teachers = {
        "large": {"config": TEACHER},
        "step": {
            "config": PAIR,
            "teacher": "large",
            "options": {"model.architecture.rpn_head.loss_cls.loss_weight": 2},
        },
    }
    arms = {
        "alone": {"config": STUDENT},
        "by_large": {"config": PAIR, "teacher": "large"},
        "by_step": {"config": PAIR, "teacher": "step"},
    }
    plan = make_plan(study(tmp_path, teachers=teachers, arms=arms))
    alone, by_large, by_step = plan
    assert alone.teacher is None
    assert by_large.teacher.arm == "teacher.large" and by_large.teacher.teacher is None
    assert by_step.teacher.arm == "teacher.step" and by_step.teacher.teacher is by_large.teacher
    assert [run.arm for run in by_step.needs] == ["teacher.large", "teacher.step"]
    assert len({run.digest for run in with_needs(plan)}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arms={"alone": {"config": STUDENT, "teacher": "big"}}), "alone: there is no teacher 'big'"),
        (dict(teachers={"a": {"config": PAIR, "teacher": "a"}}), "teachers.a is taught by itself"),
        (dict(teachers={"a": {"config": PAIR}}), "teacher.a: .* is a pair, and a teacher learns alone unless"),
        (
            dict(teachers={"a": {"config": TEACHER}, "b": {"config": TEACHER, "teacher": "a"}}),
            "teacher.b: .* is not a pair and can't use a `teacher`",
        ),
        (dict(teachers={"a": {"config": TEACHER}}), "teachers.a teaches no arm: name it"),
        (dict(pairs={"a": {"baseline": "kd"}}), r"pairs.a.baseline must be one of its arms \(\)"),
        (
            dict(
                arms={"alone": {"config": STUDENT, "pair": "a"}, "kd": {"config": PAIR}},
                pairs={"a": {"baseline": "alone"}},
            ),
            r"arms.kd.pair must be one of the study's pairs \['a'\], got None",
        ),
        (dict(arms={"alone": {"config": STUDENT, "pair": "a"}}), r"arms.alone.pair must be one of .* \[\], got 'a'"),
    ],
)
def test_mistakes_about_teachers_and_pairs_are_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        make_plan(study(tmp_path, **changes))


# --- several pairs --------------------------------------------------------------------------


def test_each_pair_has_its_own_baseline_and_the_zoos_figures(tmp_path):
    arms = {
        f"{pair}_{arm}": {"config": config, "pair": pair}
        for pair in ("mask", "one_stage")
        for arm, config in (("student", STUDENT), ("kd", PAIR))
    }
    pairs = {
        "mask": {"baseline": "mask_student", "zoo": {"student": {"bbox_mAP": 38.2, "segm_mAP": 34.7}}},
        "one_stage": {"baseline": "one_stage_student"},
    }
    found = study(tmp_path, arms=arms, pairs=pairs, baseline="mask_student", against=["one_stage_kd"])
    values = {
        "mask_student": (0.30, 0.25),
        "mask_kd": (0.32, 0.26),
        "one_stage_student": (0.2,),
        "one_stage_kd": (0.25,),
    }
    told = dict(wall_s=90.0, device="cpu", hardware=dict(cpu="C", cores=2, gpus=[]), versions=dict(torch="2"))
    lines = [
        dict(arm=arm, seed=0, status="ok", starts=1, digest="d", folder="f", processes=8 if "kd" in arm else 1, **told)
        | {"metrics": dict(zip(("bbox_mAP", "segm_mAP"), of_arm, strict=False))}
        for arm, of_arm in values.items()
    ]
    text = write_report(found, lines, tmp_path).read_text()
    first, _, second = text.partition("# one_stage")
    assert "MMDetection's model zoo states, on COCO val2017: student bbox_mAP 38.2, segm_mAP 34.7." in first
    assert "| mask_kd | 1 of 1 | 32.0 | - | +2.0 | - | - |" in first
    assert "| mask_kd | 1 of 1 | 26.0 | - | +1.0 | - | - |" in first  # masks
    assert "| one_stage_kd | 1 of 1 | 25.0 | - | +5.0 | - | - |" in second
    assert "masks" not in second
    assert "Differences are to **mask_student**." in first and "Differences are to **one_stage_student**." in second
    assert "differences to **one_stage_kd**" in second and "| one_stage_student | 1 of 1 | 20.0 | - | -5.0 |" in second
    assert "8 processes; torch 2" in text and "no GPU; torch 2" in text  # other batch sizes are shown
    with (tmp_path / "summary.csv").open() as file:
        rows = {(row["arm"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["one_stage_kd", "bbox_mAP"]["difference"]) == pytest.approx(0.05)
    assert rows["one_stage_student", "bbox_mAP"]["difference"] == ""
    assert (tmp_path / "mask_segm.png").is_file() and (tmp_path / "one_stage_bbox.png").is_file()


# --- launchers ------------------------------------------------------------------------------

# One write for the whole line: torchrun starts Python unbuffered, and `print` would write the line's end on its own, so
# that the lines of two processes could run into each other.
TELL = """import json, os, sys
line = json.dumps([sys.argv[1:], os.environ.get("WORLD_SIZE")])
os.write(1, f"{line}\\n".encode())
"""


@pytest.fixture
def tools(tmp_path):
    """The real launch scripts beside a train.py and a test.py that only tell what they were asked."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for script in [*(ROOT / "tools").glob("*.sh")]:
        (folder / script.name).write_text(script.read_text())
    for tool in ("train", "test"):
        (folder / f"{tool}.py").write_text(TELL)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.py").write_text("")
    return folder


def told(launcher: Launcher, tools: Path, tool: str, *files: str, **environment: str) -> list:
    arguments = ["--work-dir", "DIR", *(["--resume"] if tool == "train" else [])]
    command, own = launcher.command(tools, tool, tools.parent / "run/config.py", files, arguments)
    done = subprocess.run(
        command, env={**os.environ, **own, **environment}, capture_output=True, text=True, check=True, timeout=300
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]


def test_one_process_is_started_directly(tools):
    config = str(tools.parent / "run/config.py")
    assert told(Launcher(), tools, "train") == [[[config, "--work-dir", "DIR", "--resume"], None]]
    assert told(Launcher(), tools, "test", "x.pth") == [[[config, "x.pth", "--work-dir", "DIR"], None]]


@pytest.mark.slow
def test_torchrun_starts_as_many_processes(tools):
    config = str(tools.parent / "run/config.py")
    for tool, files, rest in (("train", (), ["--resume"]), ("test", ("x.pth",), [])):
        calls = told(Launcher("pytorch", 2), tools, tool, *files)
        assert calls == 2 * [[[config, *files, "--work-dir", "DIR", *rest, "--launcher", "pytorch"], "2"]]


def test_slurm_is_asked_for_the_gpus(tools, monkeypatch):
    srun = tools.parent / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps([sys.argv[1:], None]))\n")
    srun.chmod(0o755)
    path = f"{srun.parent}:{os.environ['PATH']}"
    for tool, files in (("train", ()), ("test", ("x.pth",))):
        ((call, _),) = told(Launcher("slurm", 16, "fast"), tools, tool, *files, PATH=path)
        assert {"--partition=fast", "--ntasks=16", "--ntasks-per-node=8", "--gres=gpu:8", "--launcher=slurm"} <= set(
            call
        )
        assert call[call.index(str(tools / f"{tool}.py")) + 1] == str(tools.parent / "run/config.py")
        assert set(files) <= set(call)
        assert "--work-dir=DIR" in call or call[call.index("--work-dir") + 1] == "DIR"
    monkeypatch.setenv("GPUS_PER_NODE", "4")
    ((call, _),) = told(Launcher("slurm", 16, "fast"), tools, "train", PATH=path)
    assert {"--ntasks=16", "--ntasks-per-node=4", "--gres=gpu:4"} <= set(call)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", 2), "--gpus needs --launcher"),
        (("pytorch", 0), "--gpus must be at least 1"),
        (("slurm", 8), "needs --partition"),
    ],
)
def test_launchers_that_can_not_be(arguments, message):
    with pytest.raises(InputError, match=message):
        Launcher(*arguments)


# --- hours ----------------------------------------------------------------------------------


def estimated(run_tool, capsys, path, *options):
    """The cells of ``--estimate``'s table by their first one."""
    run_tool("study.py", path, "--estimate", *options)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return {cells[0].lstrip("| "): [cell.rstrip(" |") for cell in cells] for cells in rows}


def test_gpu_hours_count_the_student_and_what_the_distillation_adds(tmp_path, run_tool, capsys):
    study(tmp_path, arms={"alone": {"config": STUDENT}, "kd": {"config": PAIR}})
    found = estimated(run_tool, capsys, tmp_path / "study.yml", 2)
    alone, pair, total = (float(found[name][3]) for name in ("alone", "kd", "all"))
    assert 0 < alone < pair
    assert total == pytest.approx(alone + pair, abs=1)
    # hours = images x epochs x operations / (operations per second) / 3600
    assert alone == pytest.approx(IMAGES * 6 * float(found["alone"][2]) * 1e9 / 2e12 / 3600, rel=0.05)
    assert not (tmp_path / "work_dirs").exists()


def test_gpu_hours_of_feature_maps_alone_count_no_head_of_the_teacher(tmp_path, run_tool, capsys):
    pair = str(ROOT / "studies/configs/groceries_retina_pair.py")
    pkd = {"model.distiller.loss": None, "model.distiller.feature_losses": dict(loss_pkd=dict(type="mmrazor.PKDLoss"))}
    arms = {"alone": {"config": pair, "options": pkd}, "kd": {"config": pair}}
    study(tmp_path, arms=arms)
    found = estimated(run_tool, capsys, tmp_path / "study.yml", 2)
    assert float(found["alone"][2]) < float(found["kd"][2]) - 2


@pytest.mark.slow
def test_gpu_hours_count_the_mask_head_of_a_trained_rpn(run_tool, capsys):
    """An untrained one finds few positive RoIs: Mask R-CNN then seems to cost less than Faster R-CNN."""
    found = estimated(run_tool, capsys, ROOT / "studies/coco.yml", 60, "--only", "frcnn_student", "mrcnn_student")
    masks = float(found["mrcnn_student"][2]) - float(found["frcnn_student"][2])
    # 128 RoIs, forward and backward, each with four 3 x 3 convolutions of 256 channels at 14 x 14, and what follows
    assert 1 < masks / (128 * 3 * 4 * 2 * 14**2 * 9 * 256**2 / 1e9) < 1.3


def test_gpu_hours_of_some_arms_alone(tmp_path, run_tool, capsys):
    study(tmp_path, arms={"alone": {"config": STUDENT}, "kd": {"config": PAIR}})
    command = ["study.py", tmp_path / "study.yml", "--estimate", 2, "--only"]
    run_tool(*command, "alone")
    printed = capsys.readouterr().out
    assert "| alone | 0 |" in printed and "| alone | 0 | - |" not in printed  # the pair counts its student's operations
    assert "| kd |" not in printed
    with pytest.raises(SystemExit, match="no arm is called 'alnoe'"):
        run_tool(*command, "alnoe")
