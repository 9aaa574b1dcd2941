"""The command lines of tools/: MMDetection's flags, clear errors, and distributed runs on CPUs."""

import argparse
import math
import os
import pickle
import re
import socket
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from commands import fail, run, start
from forked_tool import free_port
from load_tool import TOOLS, load_tool
from mmengine.config import Config, DictAction

from rekd_det.utils.read_as_data import load_plain

ROOT = TOOLS.parent
THEIR_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """The tools export LOCAL_RANK; take it back after each test."""
    monkeypatch.setenv("LOCAL_RANK", "0")


def mean_ap(output: str) -> float:
    return float(re.findall(r"coco/bbox_mAP: (\S+)", output)[-1])


# --- the command line


def parser_of(path: Path, monkeypatch) -> argparse.ArgumentParser:
    caught: list[argparse.ArgumentParser] = []

    class Caught(Exception):
        pass

    def catch(self, *args, **kwargs):
        caught.append(self)
        raise Caught

    with monkeypatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, catch)
        with pytest.raises(Caught):
            load_tool(path).parse_args()
    return caught[0]


def flags(parser: argparse.ArgumentParser) -> dict:
    return {
        action.dest: (
            tuple(sorted(action.option_strings)),
            action.nargs,
            action.const,
            action.default,
            action.choices,
            # our subclass reads the same forms: tests/apis/test_cfg_options.py
            "DictAction" if isinstance(action, DictAction) else type(action).__name__,
        )
        for action in parser._actions
    }


@pytest.mark.parametrize(("name", "ours_alone"), [("train.py", {"traceback"}), ("test.py", {"teacher", "traceback"})])
def test_every_flag_of_mmdetection_is_there_and_means_the_same(monkeypatch, name, ours_alone):
    ours = flags(parser_of(TOOLS / name, monkeypatch))
    theirs = flags(parser_of(THEIR_TOOLS / name, monkeypatch))
    assert set(ours) - set(theirs) == ours_alone
    for flag, meaning in theirs.items():
        if flag == "checkpoint":  # optional beside --teacher
            continue
        assert ours[flag] == meaning


@pytest.mark.parametrize(("name", "words"), [("train.py", ["c.py"]), ("test.py", ["c.py", "x.pth"])])
def test_open_mpis_local_rank_reaches_mmengine(monkeypatch, name, words):
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    monkeypatch.setattr(sys, "argv", [name, *words, "--launcher", "mpi"])
    load_tool(TOOLS / name).parse_args()
    assert os.environ["LOCAL_RANK"] == "3"


def test_test_needs_a_checkpoint(monkeypatch, run_tool, tmp_path, pair, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        run_tool("test.py", pair.pair)
    assert "the following arguments are required: checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run_tool("test.py", pair.pair, "x.pth", "--out", "x.json")
    assert "--out: the file's name must end in .pkl" in capsys.readouterr().err
    prefix = ("--cfg-options", "test_evaluator.outfile_prefix=/proc/none/x")
    with pytest.raises(
        SystemExit, match=r"'/proc/none' cannot be written .* with --cfg-options test_evaluator\.outfile"
    ):
        run_tool("test.py", pair.pair, "x.pth", *prefix)
    (tmp_path / "x.pkl").mkdir()
    with pytest.raises(SystemExit, match=r"--out 'x\.pkl' is a folder"):
        run_tool("test.py", pair.pair, "x.pth", "--out", "x.pkl")
    with pytest.raises(SystemExit, match=r"'x\.pth' does not exist"):
        run_tool("test.py", pair.pair, "--work-dir", "w", "x.pth")  # behind an option


# --- the launchers


@pytest.fixture
def recorder(tmp_path) -> tuple[Path, Path]:
    """A program that writes its arguments and PYTHONPATH down, and that file."""
    record = tmp_path / "record"
    program = tmp_path / "bin" / "srun"
    program.parent.mkdir()
    program.write_text(
        # `python -c` is the launcher's look at the port
        f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nprintf "%s\\n" "$PYTHONPATH" "$@" > "{record}"\n'
    )
    program.chmod(0o755)
    return program, record


def test_dist_train_starts_torchrun(pair, recorder, tmp_path):
    program, record = recorder
    environment = dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", PORT="29501")
    run(
        *(TOOLS / "dist_train.sh", pair.pair, 4, "--work-dir", "a b"),
        cwd=tmp_path,
        **{**environment, "PYTHON": str(program), "PYTHONPATH": "/else"},
    )
    assert record.read_text().splitlines() == [
        f"{ROOT}:/else",
        *("-m", "torch.distributed.run", "--nnodes=2", "--node_rank=1", "--nproc_per_node=4"),
        *("--master_addr=10.0.0.1", "--master_port=29501", str(TOOLS / "train.py"), str(pair.pair)),
        *("--work-dir", "a b", "--launcher", "pytorch"),
    ]


def test_dist_test_starts_torchrun(pair, recorder, tmp_path):
    program, record = recorder
    run(
        *(TOOLS / "dist_test.sh", pair.pair, "x.pth", 2, "--tta"),
        cwd=tmp_path,
        PYTHON=str(program),
    )
    assert record.read_text().splitlines()[3:] == [
        *("--nnodes=1", "--node_rank=0", "--nproc_per_node=2", "--master_addr=127.0.0.1"),
        *("--master_port=29500", str(TOOLS / "test.py"), str(pair.pair), "x.pth"),
        *("--tta", "--launcher", "pytorch"),
    ]


@pytest.mark.parametrize(
    ("script", "fourth", "tool_arguments"),
    [
        ("slurm_train.sh", "work", ["--work-dir=work"]),
        ("slurm_test.sh", "x.pth", ["x.pth"]),
    ],
)
def test_slurm_starts_srun(pair, recorder, tmp_path, script, fourth, tool_arguments):
    program, record = recorder
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = dict(GPUS="4", GPUS_PER_NODE="2", SRUN_ARGS="--quotatype=auto -x n1", PATH=path)
    run(
        *(TOOLS / script, "part", "job", pair.pair, fourth, "--cfg-options", "a=1"),
        cwd=tmp_path,
        **environment,
    )
    tool = TOOLS / script.replace("slurm_", "").replace(".sh", ".py")
    assert record.read_text().splitlines()[1:] == [
        *("--partition=part", "--job-name=job", "--gres=gpu:2", "--ntasks=4"),
        *("--ntasks-per-node=2", "--cpus-per-task=5", "--kill-on-bad-exit=1"),
        *("--quotatype=auto", "-x", "n1", sys.executable, "-u", str(tool), str(pair.pair)),
        *(*tool_arguments, "--cfg-options", "a=1", "--launcher=slurm"),
    ]


def test_the_launchers_refuse_bad_calls(pair, tmp_path):
    train, config = TOOLS / "dist_train.sh", pair.pair
    assert "usage:" in fail(train, config, cwd=tmp_path)
    assert "usage:" in fail(TOOLS / "dist_test.sh", config, "x.pth", cwd=tmp_path)
    assert "usage:" in fail(TOOLS / "slurm_train.sh", "part", "job", config, cwd=tmp_path)
    assert "usage:" in fail(TOOLS / "slurm_test.sh", "part", "job", config, cwd=tmp_path)
    assert "config 'none.py' does not exist" in fail(train, "none.py", 2, cwd=tmp_path)
    asked = start(train, "mmdet::a/b.py", 1, cwd=tmp_path, PORT=str(free_port()))
    assert "package `mmdet` has no such config" in asked.communicate(timeout=120)[0]
    assert "GPUS must be the number" in fail(train, config, "--amp", cwd=tmp_path)
    for port in ("abc", "70000"):
        said = fail(train, config, 2, cwd=tmp_path, PORT=port)
        assert f"PORT must be a number below 65536, but is '{port}'" in said
    assert "no 'nopython' here" in fail(train, config, 2, cwd=tmp_path, PYTHON="nopython")


def test_a_port_in_use_is_named(pair, tmp_path):
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        assert f"port {port} is in use" in fail(*(TOOLS / "dist_train.sh", pair.pair, 2), cwd=tmp_path, PORT=port)


# --- whole runs


def detections(path: Path) -> dict[int, dict]:
    """What ``--out`` has written, by image; an untrained detector's AP is 0 whatever it finds."""
    found = {image["img_id"]: image["pred_instances"] for image in pickle.loads(path.read_bytes())}
    assert sum(len(image["scores"]) for image in found.values()) > 10
    return found


def assert_same_detections(one: Path, two: Path) -> None:
    one, two = detections(one), detections(two)
    assert one.keys() == two.keys()
    for image, found in one.items():
        for key in ("bboxes", "scores", "labels"):  # other batches round differently
            torch.testing.assert_close(found[key], two[image][key], atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_a_distilled_student_trains_resumes_and_is_evaluated(pair, tmp_path):
    ema = tmp_path / "ema.py"
    joined = "dict(_delete_=True, type='ConcatDataset', datasets=[{{_base_.test_dataloader.dataset}}])"
    ema.write_text(
        f"_base_ = ['{pair.pair}']\ncustom_hooks = [dict(type='EMAHook')]\ntest_dataloader = dict(dataset={joined})\n"
    )
    python = (sys.executable, TOOLS / "train.py", ema, "--work-dir", "work")
    assert "distill.loss_tisd" in run(*python, cwd=tmp_path)
    resumed = run(*python, "--resume", "--cfg-options", "train_cfg.max_iters=3", cwd=tmp_path)
    assert "resumed epoch: 0, iter: 2" in resumed

    checkpoint = tmp_path / "work" / "iter_3.pth"
    keys = load_plain(checkpoint)["state_dict"]
    assert all(key.startswith("architecture.") for key in keys)

    (tmp_path / "teacher.pth").write_text("not needed for the student")
    test = (sys.executable, TOOLS / "test.py")
    saved = (tmp_path / "work/ema.py").read_text()
    pair_ap = mean_ap(run(*test, ema, checkpoint, "--out", "x.pkl", "--work-dir", "work", cwd=tmp_path))
    assert (tmp_path / "work/ema.py").read_text() == saved  # a training from it trains the pair, not the student
    assert Config.fromfile(tmp_path / "work/ema_test.py").model.type == Config.fromfile(pair.student).model.type
    plain_ap = mean_ap(run(*test, pair.student, checkpoint, "--out", "plain.pkl", cwd=tmp_path))
    assert plain_ap == pair_ap
    assert_same_detections(tmp_path / "x.pkl", tmp_path / "plain.pkl")
    hookless = ("--cfg-options", "default_hooks.visualization=None")
    run(*test, ema, checkpoint, "--tta", "--show-dir", "seen", "--out", "tta.pkl", *hookless, cwd=tmp_path)
    assert detections(tmp_path / "tta.pkl").keys() == detections(tmp_path / "x.pkl").keys()
    assert list(tmp_path.glob("work_dirs/ema/*/seen/*.jpg"))


@pytest.mark.slow
def test_the_teacher_is_evaluated_with_its_own_checkpoint(pair, tmp_path):
    test = (sys.executable, TOOLS / "test.py")
    through_pair = run(*test, pair.pair, "--teacher", "--out", "pair.pkl", cwd=tmp_path)
    alone = run(*test, pair.teacher, pair.folder / "teacher.pth", "--out", "alone.pkl", cwd=tmp_path)
    assert mean_ap(through_pair) == mean_ap(alone)
    assert_same_detections(tmp_path / "pair.pkl", tmp_path / "alone.pkl")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="mmengine's own mixed precision serves a GPU")
def test_mixed_precision_trains_on_a_cpu(pair, tmp_path):
    output = run(sys.executable, TOOLS / "train.py", pair.pair, "--amp", "--work-dir", "work", cwd=tmp_path)
    values = re.findall(r"distill\.loss_\w+: (\S+)", output)
    assert len(values) == 4
    assert all(math.isfinite(float(v)) and float(v) > 0 for v in values)
    assert "type='BF16OptimWrapper'" in output


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Triton is the fused engine, with other roundings")
def test_the_fused_and_the_eager_loss_train_alike_in_two_processes(pair, tmp_path):
    steps = {}
    for backend in ("eager", "fused"):
        options = ("--cfg-options", f"model.distiller.loss.backend={backend}", "train_cfg.max_iters=3")
        train = (TOOLS / "dist_train.sh", pair.pair, 2, "--auto-scale-lr", "--work-dir", backend, *options)
        output = run(*train, cwd=tmp_path, PORT=str(free_port()))
        assert "lr: 2.5000e-04" in output  # 0.001 for 16 images, and here are 4
        steps[backend] = [[float(x) for x in re.findall(r": ([\d.e-]+)", line)] for line in losses(output)]
    assert len(steps["eager"]) == 3
    for eager, fused in zip(steps["eager"], steps["fused"], strict=True):
        assert fused == pytest.approx(eager, abs=2e-4, rel=1e-3)
    eager, fused = (load_plain(tmp_path / name / "iter_3.pth")["state_dict"] for name in ("eager", "fused"))
    for key, value in eager.items():
        torch.testing.assert_close(fused[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_amp_keeps_the_mixed_precision_of_the_config(pair, device, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    train = load_tool(TOOLS / "train.py")
    monkeypatch.setattr(train, "get_device", lambda: device)
    monkeypatch.setattr(sys, "argv", ["train.py", str(pair.pair), "--amp"])
    cfg = Config.fromfile(str(pair.pair))
    cfg.optim_wrapper.type = "BF16OptimWrapper"
    train.apply_arguments(cfg, train.parse_args())
    assert cfg.optim_wrapper.type == "BF16OptimWrapper" and "loss_scale" not in cfg.optim_wrapper


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the way without a GPU")
def test_fp16_without_a_gpu_is_refused_and_replaced_by_amp(pair, run_tool, unformatted_configs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fp16 = ("--cfg-options", "optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.loss_scale=512.0")
    with pytest.raises(SystemExit, match=r"optim_wrapper\.type='AmpOptimWrapper' needs a GPU.* give --amp"):
        run_tool("train.py", pair.pair, *fp16)
    run_tool("train.py", pair.pair, "--amp", *fp16)
    assert (tmp_path / "work_dirs/pair/iter_2.pth").is_file()


def losses(output: str) -> list[str]:
    return re.findall(r"loss: .*?distill.head_mass: \S+", output)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the way without a GPU")
def test_two_processes_on_one_node_and_on_two_nodes_agree(pair, tmp_path):
    port = str(free_port())
    train = TOOLS / "dist_train.sh"
    one_node = run(train, pair.pair, 2, "--work-dir", "one", cwd=tmp_path, PORT=port)
    assert len(losses(one_node)) == 2

    port = str(free_port())
    nodes = [
        start(
            *(train, pair.pair, 1, "--work-dir", f"node{rank}"),
            cwd=tmp_path,
            **dict(NNODES="2", NODE_RANK=str(rank), MASTER_ADDR="127.0.0.1", PORT=port),
        )
        for rank in (0, 1)
    ]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs[0][-4000:]
    assert losses(outputs[0]) == losses(one_node)
    one, two = (load_plain(tmp_path / name / "iter_2.pth")["state_dict"] for name in ("one", "node0"))
    assert all(torch.equal(one[key], two[key]) for key in one)

    checkpoint = tmp_path / "one" / "iter_2.pth"
    test = (pair.pair, checkpoint)
    spread = run(TOOLS / "dist_test.sh", *test, 2, "--out", "spread.pkl", cwd=tmp_path, PORT=str(free_port()))
    single = run(sys.executable, TOOLS / "test.py", *test, "--out", "single.pkl", cwd=tmp_path)
    assert mean_ap(spread) == mean_ap(single)
    assert_same_detections(tmp_path / "spread.pkl", tmp_path / "single.pkl")
