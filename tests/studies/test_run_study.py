"""Runs are scheduled, shared, resumed, and fail one by one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from study_files import ARMS

from rekd_det.utils.errors import InputError
from rekd_det.utils.read_as_data import load_plain
from studies.runner import slots, trainer
from studies.runner.eta import Durations, clock, remaining_seconds
from studies.runner.launcher import Launcher
from studies.runner.processes import Processes, RunFailed, hold
from studies.runner.signals import terminable


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
    pretrained = [load_plain(path)["state_dict"] for path in fake.root.glob("runs/*backbone*/epoch_1.pth")]
    assert len(pretrained) == 2
    for arm in ("teacher", "student"):
        cfg = Config.fromfile(folders[arm] / "config.py")
        start = load_plain(cfg.load_from)["state_dict"]
        others = load_plain(re.sub("-backbone.*", ".pth", cfg.load_from))["state_dict"]
        assert start.keys() == others.keys()
        own = {k for k in start if k.startswith("backbone.")}
        assert all(torch.equal(start[k], others[k]) for k in start.keys() - own)
        (backbone,) = (b for b in pretrained if all(start[k].shape == b[k].shape for k in own))
        assert all(torch.equal(start[k], backbone[k]) for k in own)
        assert not all(torch.equal(start[k], others[k]) for k in own)


def test_only_some_arms(fake):
    fake.study(only=["student"])
    assert [call["kind"] for call in fake.calls()] == ["backbone", "frcnn_student"]
    assert fake.results()["rekd_pkd"]["status"] == "not run"
    with pytest.raises(InputError, match="no arm is called 'kd'; there are student, rekd_pkd"):
        fake.study(only=["kd"])


def test_a_failed_run_is_reported_and_tried_again(fake):
    (fake.tools / "fail").write_text("frcnn_pair")
    assert fake.study() == 1
    found = fake.results()
    assert found["rekd_pkd"]["status"] == "failed"
    assert "exit status 1" in found["rekd_pkd"]["error"] and "no disk" in found["rekd_pkd"]["error"]
    assert found["student"]["status"] == "ok"
    report = (fake.root / "tiny" / "report.md").read_text()
    assert "| rekd_pkd | 0 (failed) |" in report
    assert "## What failed" in report and "no disk" in report
    assert "unfinished" in report

    (fake.tools / "fail").unlink()
    fake.calls()
    assert fake.study() == 0
    assert fake.calls() == [{"kind": "frcnn_pair", "resume": True, "omp": "1"}]
    assert fake.results()["rekd_pkd"]["starts"] == 2
    assert "of its last part" in (fake.root / "tiny" / "report.md").read_text()


def break_the_student(monkeypatch, error):
    """Let the student's run end with an error before its training."""
    settle = trainer.settle

    def of_the_student_alone_raises(run, *arguments):
        if run.arm == "student":
            raise error
        return settle(run, *arguments)

    monkeypatch.setattr(trainer, "settle", of_the_student_alone_raises)


def test_a_killed_training_and_an_arm_that_breaks_cost_that_arm_alone(fake, monkeypatch, capsys):
    (fake.tools / "fail").write_text("frcnn_teacher")
    script = (fake.tools / "train.py").read_text()
    (fake.tools / "train.py").write_text(script.replace('sys.exit("no disk")', "os.kill(os.getpid(), 9)"))
    break_the_student(monkeypatch, AttributeError("a user's own class"))
    assert fake.study() == 3
    found = fake.results()
    assert found["teacher"]["error"] == "killed by SIGKILL:\nso far so good"
    assert found["student"]["error"] == "AttributeError: a user's own class"
    assert "FAILED: AttributeError: a user's own class" in capsys.readouterr().out


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
    assert "could not be trained: teacher (" in capsys.readouterr().out


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


def test_a_teacher_that_is_trained_again_teaches_nothing_before_it_is_finished(fake):
    fake.study()
    folders = {arm: fake.root / "runs" / line["folder"] for arm, line in fake.results().items()}
    (folders["teacher"] / "epoch_1.pth").unlink()
    shutil.rmtree(folders["rekd_pkd"])
    (fake.tools / "fail").write_text("frcnn_teacher")
    assert fake.study() == 2  # it fails after its first checkpoint
    assert fake.results()["teacher"]["status"] == "failed"
    (fake.tools / "fail").unlink()
    fake.calls()
    assert fake.study() == 0
    assert [(call["kind"], call["resume"]) for call in fake.calls()] == [("frcnn_teacher", True), ("frcnn_pair", False)]


def test_without_its_backbone_nothing_is_trained(fake, capsys):
    (fake.tools / "fail").write_text("backbone")
    assert fake.study() == 5
    assert {call["kind"] for call in fake.calls()} == {"backbone"}
    assert "could not be trained: pretrain (tiny_imagenet_backbone-seed0-" in capsys.readouterr().out


def test_a_run_that_cant_start_fails_and_the_others_go_on(fake, monkeypatch):
    break_the_student(monkeypatch, InputError("the backbone's checkpoint is damaged"))
    assert fake.study() == 1
    found = fake.results()
    assert {arm: line["status"] for arm, line in found.items()} == {**dict.fromkeys(ARMS, "ok"), "student": "failed"}
    assert found["student"]["error"] == "the backbone's checkpoint is damaged"


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


def test_a_hung_training_ends_its_workers(tmp_path):
    """They are in sessions of their own, as torchrun's, so that only their parent can end them."""
    script = tmp_path / "hangs.py"
    script.write_text(
        "import signal, subprocess, sys, time\n"
        "worker = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "signal.signal(signal.SIGTERM, lambda *_: (worker.kill(), sys.exit(1)))\n"
        "print('worker', worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(RunFailed, match="hung") as failed:
        Processes(os.open(tmp_path / "lock", os.O_CREAT), silence_s=3).run(
            [sys.executable, str(script)], tmp_path / "output.txt", {}
        )
    worker = int(re.search(r"worker (\d+)", str(failed.value))[1])
    assert not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_bytes()


def test_a_job_that_waits_in_slurms_queue_does_not_hang(tmp_path):
    script = tmp_path / "queued.py"
    script.write_text(
        "import time\n"
        "print('srun: job 7 queued and waiting for resources', flush=True)\n"
        "time.sleep(5)\n"
        "print('srun: job 7 has been allocated resources', flush=True)\n"
    )
    lock = os.open(tmp_path / "lock", os.O_CREAT)
    Processes(lock, silence_s=2).run([sys.executable, str(script)], tmp_path / "output.txt", {})


def test_slurms_machine_is_recorded_from_its_log(fake):
    """The study's own machine is the one that waits for the jobs."""
    first, last = ("System environment:\\n" + gpus for gpus in (" GPU 0,1: Old\\n", " GPU 0,1: A\\n GPU 2: B\\n"))
    for tool, place in (("train", '"$3" --work-dir "$4" "${@:5}"'), ("test", '"${@:3}"')):
        script = f"printf '{first}{last}'\nexec \"$PYTHON\" {fake.tools}/{tool}.py {place}\n"
        (fake.tools / f"slurm_{tool}.sh").write_text(script)
    assert fake.study(jobs=1, only=["student"], launcher=Launcher("slurm", 3, "fast")) == 0
    line = fake.results()["student"]
    assert (line["hardware"]["gpus"], line["device"]) == (["A", "A", "B"], "gpu")
    report = (fake.root / "tiny/report.md").read_text()
    assert "* processor not recorded (another machine), A, A, B, 3 processes; rekd_det" in report


def test_nohup_keeps_a_study_alive():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


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
    working = (fake.tools / "test.py").read_text()
    (fake.tools / "test.py").write_text(working.replace("json.dumps(", '"{" + json.dumps('))
    assert fake.study() > 0
    assert "can't be read" in fake.results()["student"]["error"]
    (fake.tools / "test.py").write_text(working)
    assert fake.study() == 0


def test_two_studies_do_not_work_in_one_folder(fake):
    fake.root.mkdir()
    with hold(fake.root), pytest.raises(InputError, match="a study is at work"):
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
