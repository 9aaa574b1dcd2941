"""A run that is killed and resumed equals one that was not, to the last bit on the CPU."""

import ast
import json
import os
import re
import shutil
import signal
from pathlib import Path

import forked_tool
import pytest
import torch
from mmengine.config import Config
from same_bits import assert_equal
from tiny_pair import AUGMENTED

from rekd_det.engine.runner.latest_checkpoint import check_resumable, find_latest_checkpoint
from rekd_det.engine.runner.rekd_runner import ReKDRunner
from rekd_det.utils import checkpoint as checkpoints
from rekd_det.utils.errors import CheckpointError
from rekd_det.utils.read_as_data import load_plain

# Whatever draws random numbers or keeps a state: augmentation, samplers, momentum, schedule, warm-up, EMA, best.
_RUN = """
_base_ = ['{pair}']
custom_imports = dict(imports=['rekd_det', 'odd_parts'], allow_failed_imports=False)
runner_type = 'ReKDRunner'
train_dataloader = dict(num_workers={workers}, persistent_workers={workers} > 0)
{augmented}
train_dataloader['dataset'] = dict(pipeline=train_pipeline)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5)]
custom_hooks = [
    dict(type='mmrazor.PairCheckHook'),
    dict(type='mmrazor.DistillWarmupHook', iters=6),
    dict(type='EMAHook', momentum=0.1),
    dict(type='Watched'),
]
{loop}
"""
_ITERS = """
train_cfg = dict(max_iters=6, val_interval=3)
default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=1, save_best='auto'))
"""
# The tiny set's 8 images make 4 batches.
_EPOCHS = """
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=1))
"""
_INSIDE_EPOCHS = """
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=3))
"""


def train(config: Path, work_dir: Path, *arguments: object, kill: str = "") -> None:
    """Train to the end, or until the process is killed (see `odd_parts.Watched`)."""
    work_dir.mkdir(exist_ok=True)
    output = work_dir / "output.txt"
    words = [config, "--work-dir", work_dir, *arguments]
    codes = forked_tool.wait(forked_tool.start("train.py", words, output, work_dir, dict(KILL=kill)))
    assert codes == [-signal.SIGKILL if kill else 0], output.read_text()[-4000:]


def changed(config: Path, folder: Path, text: str) -> Path:
    """The config with other lines."""
    path = folder / "changed.py"
    path.write_text(f"_base_ = ['{config}']\n{text}")
    return path


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    """Uninterrupted runs by their loop and number of workers, each made once."""
    made: dict = {}

    def get(loop: str, workers: int) -> tuple[Path, Path]:
        if (loop, workers) not in made:
            folder = tmp_path_factory.mktemp("whole")
            config = folder / "run.py"
            config.write_text(_RUN.format(pair=pair.pair, workers=workers, loop=loop, augmented=AUGMENTED))
            train(config, folder / "work")
            made[loop, workers] = config, folder / "work"
        return made[loop, workers]

    return get


def losses(work_dir: Path) -> dict[int, dict]:
    """The losses of each iteration; where it was run twice, those of the second time."""
    lines = (work_dir / "losses.txt").read_text().splitlines()
    return {int(number): ast.literal_eval(rest) for number, rest in (line.split(" ", 1) for line in lines)}


def last_averages(work_dir: Path) -> dict:
    """The losses in the last line of the training's log, which are means over several iterations."""
    lines = [json.loads(x) for file in sorted(work_dir.glob("*/vis_data/scalars.json")) for x in file.open()]
    last = [line for line in lines if "loss" in line][-1]
    return {name: value for name, value in last.items() if "loss" in name or name.startswith("distill.")}


def last_checkpoint(work_dir: Path) -> dict:
    path = find_latest_checkpoint(str(work_dir))
    assert path is not None
    return load_plain(path)


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    ends = [last_checkpoint(work_dir) for work_dir in (one, other)]
    for key in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "generator_states"):
        assert_equal(ends[0][key], ends[1][key], key)


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["iter 1", "iter 3", "iter 5", "write 2", "rename 2", "named 2", "val 1", "write 1"])
def test_a_killed_run_resumes_exactly(whole, tmp_path, kill):
    config, uninterrupted = whole(_ITERS, 0)
    train(config, tmp_path, kill=kill)
    train(config, tmp_path, "--resume")
    assert_same_run(tmp_path, uninterrupted)
    assert sorted(p.name for p in tmp_path.glob("iter_*.pth")) == ["iter_6.pth"]
    (best,), (expected,) = tmp_path.glob("best_*.pth"), uninterrupted.glob("best_*.pth")
    assert best.name == expected.name
    assert all(k.startswith("architecture.") for k in load_plain(best)["state_dict"])
    assert_equal(load_plain(best)["state_dict"], load_plain(expected)["state_dict"], "best")
    assert last_averages(tmp_path) == last_averages(uninterrupted)
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.slow
def test_a_student_alone_resumes_exactly_too(pair, tmp_path):
    text = _RUN.replace("runner_type = 'ReKDRunner'\n", "")
    text = re.sub(r"    dict\(type='mmrazor\..*\n", "", text).replace("'rekd_det', ", "")
    config = tmp_path / "alone.py"
    config.write_text(text.format(pair=pair.student, workers=0, loop=_ITERS, augmented=AUGMENTED))
    train(config, tmp_path / "whole")
    train(config, tmp_path / "killed", kill="iter 5")
    train(config, tmp_path / "killed", "--resume")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    # It stays a config that MMDetection reads without this package.
    assert not re.search("rekd_det|runner_type", (tmp_path / "whole/alone.py").read_text())


@pytest.mark.slow
def test_killed_twice(whole, tmp_path):
    config, uninterrupted = whole(_ITERS, 0)
    train(config, tmp_path, kill="iter 3")
    train(config, tmp_path, "--resume", kill="write 1")
    train(config, tmp_path, "--resume")
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "workers", "kill"),
    [(_ITERS, 2, "iter 5"), (_EPOCHS, 0, "val 1"), (_EPOCHS, 2, "iter 7"), (_INSIDE_EPOCHS, 2, "iter 7")],
    ids=["iterations", "epochs", "epochs-workers", "inside-epochs"],
)
def test_with_worker_processes_and_inside_epochs(whole, tmp_path, loop, workers, kill):
    config, uninterrupted = whole(loop, workers)
    train(config, tmp_path, kill=kill)
    train(config, tmp_path, "--resume")
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(whole):
    assert_same_run(whole(_ITERS, 0)[1], whole(_ITERS, 2)[1])


@pytest.mark.slow
def test_the_input_size_that_was_drawn_last_is_kept(whole, tmp_path):
    resize = "dict(type='BatchSyncRandomResize', random_size_range=(64, 256), size_divisor=32, interval=3)"
    text = f"model = dict(architecture=dict(data_preprocessor=dict(batch_augments=[{resize}])))\n"
    config = changed(whole(_ITERS, 0)[0], tmp_path, text)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "killed", kill="iter 5")  # iter_4 lies between two draws
    train(config, tmp_path / "killed", "--resume")
    assert last_checkpoint(tmp_path / "whole")["input_sizes"] not in ([(64, 64)], [None], [])
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_a_hook_that_reads_the_training_data_between_epochs_moves_no_sample(whole, tmp_path):
    # With mmdet's own batch sampler the hook fails under any Runner.
    text = """
train_dataloader = dict(batch_sampler=None)
custom_hooks = [
    dict(type='mmpretrain.PreciseBNHook', num_samples=4, priority='ABOVE_NORMAL'),
    dict(type='EMAHook', momentum=0.1),
    dict(type='Watched'),
]
"""
    config = changed(whole(_EPOCHS, 2)[0], tmp_path, text)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "killed", kill="iter 6")
    train(config, tmp_path / "killed", "--resume")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_without_a_seed_the_resumed_run_takes_that_of_the_checkpoint(whole, tmp_path):
    config = changed(whole(_ITERS, 0)[0], tmp_path, "randomness = dict(seed=None)\n")
    train(config, tmp_path / "killed", kill="iter 3")
    train(config, tmp_path / "killed", "--resume")
    seed = last_checkpoint(tmp_path / "killed")["meta"]["seed"]
    train(config, tmp_path / "whole", "--cfg-options", f"randomness.seed={seed}")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_mmengines_own_runner_is_told_apart(whole, tmp_path):
    """If this fails, mmengine resumes exactly by itself, and the tests above prove nothing."""
    config, uninterrupted = whole(_ITERS, 0)
    config = changed(config, tmp_path, "runner_type = 'Runner'\n")
    train(config, tmp_path / "run", kill="iter 5")
    train(config, tmp_path / "run", "--resume", tmp_path / "run/iter_4.pth")
    assert losses(tmp_path / "run")[5] != losses(uninterrupted)[5]


@pytest.mark.slow
def test_the_checkpoint_of_another_runner_is_resumed_with_a_warning(whole, tmp_path):
    config, _ = whole(_ITERS, 0)
    train(changed(config, tmp_path, "runner_type = 'Runner'\n"), tmp_path / "run", kill="iter 3")
    train(config, tmp_path / "run", "--resume")
    output = (tmp_path / "run/output.txt").read_text()
    assert re.search(r"not exact: the checkpoint holds the random generators of no process", output)


# --- which checkpoint


def checkpoint(folder: Path, name: str, **changes) -> str:
    content = {"state_dict": {"w": torch.zeros(4000)}, "meta": dict(epoch=0, iter=int(re.findall(r"\d+", name)[0]))}
    torch.save({**content, **changes}, folder / name)
    return str(folder / name)


def truncate(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def test_nothing_to_resume_from(tmp_path):
    assert find_latest_checkpoint(str(tmp_path)) is None
    checkpoint(tmp_path, "best_coco_1.pth")
    assert find_latest_checkpoint(str(tmp_path)) is None


def test_a_config_without_load_from_that_resumes_from_nothing(pair, tmp_path):
    """As another program than tools/train.py may give it."""
    cfg = Config.fromfile(pair.pair)
    cfg.update(work_dir=str(tmp_path), resume=True)
    cfg.pop("load_from", None)
    runner = ReKDRunner.from_cfg(cfg)
    assert not runner._resume and runner._load_from is None


def test_the_named_checkpoint(tmp_path):
    path = checkpoint(tmp_path, "iter_2.pth")
    checkpoint(tmp_path, "iter_4.pth")
    (tmp_path / "last_checkpoint").write_text(path)
    assert find_latest_checkpoint(str(tmp_path)) == path


def test_a_storage_backend_is_resumed_from_where_the_config_saves(tmp_path):
    (tmp_path / "last_checkpoint").write_text("s3://bucket/run/iter_4.pth")
    assert find_latest_checkpoint(str(tmp_path), "s3://bucket") == "s3://bucket/run/iter_4.pth"
    for out_dir in (None, "s3://buck", str(tmp_path)):
        with pytest.raises(CheckpointError, match="no file of this machine"):
            find_latest_checkpoint(str(tmp_path), out_dir)


@pytest.mark.slow
def test_a_resume_reads_its_checkpoint_twice_before_it_loads_it(pair, tmp_path, run_tool, monkeypatch):
    options = ["--cfg-options", "val_dataloader=None", "val_cfg=None", "val_evaluator=None"]
    run_tool("train.py", pair.pair, "--work-dir", tmp_path, *options)
    reads, read = [], checkpoints._read
    monkeypatch.setattr(checkpoints, "_read", lambda path, name: reads.append(Path(path).name) or read(path, name))
    run_tool("train.py", pair.pair, "--work-dir", tmp_path, "--resume", *options, "train_cfg.max_iters=3")
    assert load_plain(tmp_path / "iter_3.pth")["meta"]["iter"] == 3
    # Where its training stood, and whether its weights are a pair's.
    assert reads.count("iter_2.pth") == 2


@pytest.mark.parametrize("renamed", [False, True])
def test_a_checkpoint_that_has_changed_is_read_again(tmp_path, renamed):
    path = Path(checkpoint(tmp_path, "iter_2.pth"))
    assert check_resumable(str(path))["iter"] == 2
    before = path.stat()
    damaged = tmp_path / "damaged.pth" if renamed else path
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # some kernels count it in steps of milliseconds
        damaged.write_bytes(bytes(before.st_size))
        os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
        damaged.replace(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        check_resumable(str(path))


@pytest.mark.parametrize("text", [None, "", "{folder}/iter_6.pth", "{folder}/iter_4.pth", "\0\0"])
def test_a_damaged_end_of_a_run_is_passed_over(tmp_path, text):
    folder = tmp_path / "a [1]"  # not a pattern
    folder.mkdir()
    sound = checkpoint(folder, "iter_2.pth")
    truncate(checkpoint(folder, "iter_4.pth"))
    if text is not None:
        (folder / "last_checkpoint").write_text(text.format(folder=folder))
    assert find_latest_checkpoint(str(folder)) == sound


def test_a_copied_folder_means_its_own_checkpoints(tmp_path):
    original, copy = tmp_path / "a", tmp_path / "b"
    original.mkdir()
    for number in (2, 4):
        path = checkpoint(original, f"iter_{number}.pth")
    (original / "last_checkpoint").write_text(path)
    shutil.copytree(original, copy)
    assert find_latest_checkpoint(str(copy)) == str(copy / "iter_4.pth")
    (copy / "iter_4.pth").unlink()
    assert find_latest_checkpoint(str(copy)) == str(copy / "iter_2.pth")
    (copy / "iter_2.pth").unlink()
    with pytest.raises(CheckpointError, match=r"last_checkpoint' names '.*a/iter_4.pth', a checkpoint of another run"):
        find_latest_checkpoint(str(copy))


def test_a_moved_folder_with_names_in_a_folder(tmp_path):
    (tmp_path / "a/kept").mkdir(parents=True)
    (tmp_path / "a/last_checkpoint").write_text(checkpoint(tmp_path / "a/kept", "at_4.pth"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert find_latest_checkpoint(str(tmp_path / "b")) == str(tmp_path / "b/kept/at_4.pth")


@pytest.mark.parametrize("damaged", [False, True])
def test_the_hooks_out_dir(tmp_path, damaged):
    # mmengine appends the work dir's name to it
    out, work = tmp_path / "big_disk/run", tmp_path / "run"
    out.mkdir(parents=True)
    work.mkdir()
    sound = checkpoint(out, "iter_2.pth")
    path = checkpoint(out, "iter_4.pth")
    (work / "last_checkpoint").write_text(path)
    if damaged:
        truncate(path)
    assert find_latest_checkpoint(str(work)) == (sound if damaged else path)


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    path = checkpoint(tmp_path, "iter_2.pth")
    truncate(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be resumed from \(checkpoint .*iter_2.pth"):
        find_latest_checkpoint(str(tmp_path))


def test_weights_alone_are_no_training(tmp_path):
    checkpoint(tmp_path, "epoch_1.pth", meta={})
    with pytest.raises(CheckpointError, match=r"has weights but no training state"):
        find_latest_checkpoint(str(tmp_path))
