"""The benchmarks run, name what they ran on, and count memory correctly. No test looks at a time."""

import csv
import shutil

import pytest
import torch
from load_tool import TOOLS
from tiny import tiny_rcnn

from rekd_det.testing.tiny_detectors import tiny_config


@pytest.fixture(autouse=True)
def path_and_threads(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS / "benchmark"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def pair_file(folder, config):
    model = dict(
        type="mmrazor.ReKDDistill",
        architecture=config.to_dict(),
        teacher=config.to_dict(),
        distiller=dict(type="mmrazor.ReKDDistiller", loss=dict(type="mmrazor.ReKDLoss", top_k=2)),
    )
    path = folder / "tiny_pair.py"
    path.write_text(f"model = {model!r}\n")
    return path


@pytest.mark.parametrize(
    ("config", "also"),
    [
        (tiny_rcnn(), ["mmrazor"]),
        (tiny_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"), ["mmrazor", "head twice"]),
        (tiny_config("mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py"), []),
    ],
    ids=["faster_rcnn", "retinanet", "fovea"],
)
@pytest.mark.slow
def test_steps(config, also, tmp_path, run_tool):
    out, profile = tmp_path / "step.csv", tmp_path / "profile.txt"
    pair = pair_file(tmp_path, config)
    run_tool("benchmark/step.py", pair, "--quick", "--variants", "folded", "--out", out, "--profile", profile)
    rows = {r["contender"]: r for r in csv.DictReader(out.open())}
    assert set(rows) == {"student", "floor", "ours", "ours folded", *also}
    ours = rows["ours"]
    assert float(ours["peak_mb"]) >= float(rows["student"]["peak_mb"]) > 0
    assert all(float(ours[k]) > 0 for k in ("step_s", "step_per_floor", "teacher_s", "teacher_per_floor"))
    assert float(rows["floor"]["step_per_floor"]) == 1.0
    assert ours["torch"] == torch.__version__
    assert ours["device"] and ours["date"] and ours["load"]
    assert "teacher backbone" in profile.read_text()


def test_a_config_that_is_no_pair_is_refused(tmp_path, run_tool):
    path = tmp_path / "plain.py"
    path.write_text(f"model = {tiny_rcnn().to_dict()!r}\n")
    with pytest.raises(SystemExit, match=r"plain\.py is not a pair: its model needs `architecture` and `teacher`"):
        run_tool("benchmark/step.py", path, "--quick")


def test_live_bytes():
    from live_bytes import LiveBytes

    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes() as memory:
        memory.follow_not([weight])
        y = (weight * 2).exp()  # the product is freed when exp() has its result
        assert (memory.live, memory.peak) == (4000, 8000)
        y.view(10, 100).t()  # views hold nothing
        assert memory.live == 4000
        weight.detach().mul_(2)
        assert memory.live == 4000
        y.sum().backward()
        del y
        assert memory.live == 4000  # the gradient
    assert memory.peak >= 8000


def test_scaling_writes_every_size(tmp_path, monkeypatch):
    import scaling

    axes = {"rows": [10, 20, 30], "classes": [10, 20, 30], "top_k": [1, 2, 3], "heads": [1, 2, 3]}
    monkeypatch.setattr(scaling, "AXES", axes)
    out, plot = tmp_path / "scaling.csv", tmp_path / "scaling.png"
    monkeypatch.setattr(
        "sys.argv", ["scaling.py", "--device", "cpu", "--repeats", "1", "--out", str(out), "--plot", str(plot)]
    )
    scaling.main()
    assert [r["heads"] for r in csv.DictReader(out.open()) if r["axis"] == "heads"] == ["1", "2", "3"]
    assert plot.exists()
    fit, deviation = scaling.line([dict(axis="rows", rows=x, ms=y) for x, y in ((1, 2.0), (2, 4.0), (3, 6.0))])
    assert deviation < 1e-12 and fit[2] == pytest.approx(6.0)
    _, deviation = scaling.line([dict(axis="rows", rows=x, ms=float(x**2)) for x in range(9)])
    assert deviation > 0.1


def test_changes_of_logits():
    from precision import compare

    want = torch.tensor([[4.0, 3, 2, 1, 0, -1], [0, 1, 2, 3, 4, 5]])
    same = compare(want, want)
    assert same == dict(mean_change=0.0, largest_change=0.0, same_top1=1.0, same_top5=1.0, kl_per_row=0.0)
    got = want.clone()
    got[0, 5] = 5.0  # enters the top 5 at the top
    changed = compare(got, want)
    assert (changed["largest_change"], changed["same_top1"], changed["same_top5"]) == (6.0, 0.5, 0.5)
    p, q = torch.tensor([-1.0, 5.0]).sigmoid().tolist()
    kl = p * torch.tensor(p / q).log().item() + (1 - p) * torch.tensor((1 - p) / (1 - q)).log().item()
    assert changed["kl_per_row"] == pytest.approx(kl / 2, rel=1e-4)


def test_flatten_times_both(tmp_path, run_tool):
    out = tmp_path / "flatten.csv"
    run_tool("benchmark/flatten.py", "--device", "cpu", "--repeats", 1, "--out", out)
    rows = {r["what"]: r for r in csv.DictReader(out.open())}
    assert set(rows) == {"copies", "loss"}
    assert {r["rows"] for r in rows.values()} == {"201600"}


def test_levels_counts_the_copies_of_all_rows(tmp_path, run_tool):
    out = tmp_path / "levels.csv"
    pair = pair_file(tmp_path, tiny_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"))
    run_tool("benchmark/levels.py", pair, "--device", "cpu", "--size", 320, 320, "--out", out)
    levels, whole = csv.DictReader(out.open())
    assert (levels["rows"], whole["rows"]) == ("levels", "one tensor")
    rows = 9 * (40**2 + 20**2 + 10**2 + 5**2 + 3**2)
    copy = rows * 80 * 4 / 2**20
    peak, other = (float(row["distillation_peak_mb"]) for row in (levels, whole))
    # The teacher's rows and the gradient are there in any case; the student's rows are copied for one tensor alone.
    assert peak > 2 * copy
    assert other > peak + 0.5 * copy
    assert float(whole["step_peak_mb"]) >= float(levels["step_peak_mb"]) > peak


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_compiled_loss_is_a_candidate(tmp_path, run_tool):
    out = tmp_path / "loss.csv"
    case = ("--case", 64, 8, 2, "--dtypes", "float32", "--repeats", 1)
    run_tool("benchmark/loss.py", "--device", "cpu", "--compile", *case, "--out", out)
    assert [r["backend"] for r in csv.DictReader(out.open())] == ["naive", "torch_kl", "eager", "fused", "compiled"]
