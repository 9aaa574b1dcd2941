"""Resuming as a user does: through ``tools/train.py``, with changed settings, several processes, real kills."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import forked_tool
import pytest
import torch
from filelock import FileLock
from mmengine.config import Config
from same_bits import assert_equal
from tiny_pair import AUGMENTED, TinyPair

from rekd_det.utils.read_as_data import load_plain

pytestmark = pytest.mark.slow

# The tiny set's 8 images make 4 batches of 2, and no evaluation is needed but where one is asked for.
_CONFIG = """
_base_ = ['{pair}']
custom_imports = dict(imports=['rekd_det', 'odd_parts'], allow_failed_imports=False)
runner_type = 'ReKDRunner'
custom_hooks = [dict(type='mmrazor.PairCheckHook')]
"""
_EPOCHS = """
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2, val_interval=100, val_begin=100)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))
"""
_MIDDLE = """
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1, val_interval=100, val_begin=100)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=3, save_last=False))
"""
_ITERS = """
train_cfg = dict(max_iters=2, val_interval=100, val_begin=100)
"""


class Runs:
    """Starts trainings in a folder of their own; ``said`` is what the last ones wrote."""

    def __init__(self, folder: Path, pair: TinyPair) -> None:
        self.folder, self.pair, self.count = folder, pair, 0

    def config(self, text: str) -> Path:
        path = self.folder / "config.py"
        path.write_text(_CONFIG.format(pair=self.pair.pair) + text)
        return path

    def train(self, *arguments: object, processes: int = 1, nodes: int = 1, **environment: str) -> list[int | None]:
        self.count += 1
        outputs = [self.folder / f"output_{self.count}_{rank}.txt" for rank in range(processes * nodes)]
        cwds = [self.folder] * processes
        if nodes > 1:
            cwds = [self.folder / f"node{rank}" for rank in range(nodes)]
            for cwd in cwds:
                cwd.mkdir(exist_ok=True)
        words = [self.folder / "config.py", *arguments]
        if len(outputs) == 1:
            started = [forked_tool.start("train.py", words, outputs[0], cwds[0], environment)]
        else:
            one_node = nodes == 1
            started = forked_tool.start_distributed("train.py", words, outputs, cwds, one_node, environment)
        codes = forked_tool.wait(*started)
        self.said = "\n".join(path.read_text() for path in outputs)
        return codes

    def checkpoint(self, name: str, folder: str = "run") -> dict:
        return load_plain(self.folder / folder / name)


@pytest.fixture
def runs(pair, tmp_path) -> Runs:
    return Runs(tmp_path, pair)


@pytest.fixture(scope="module")
def two_iterations(pair, tmp_path_factory) -> Path:
    """A run of two iterations, with its best checkpoint; to be copied."""
    runs = Runs(tmp_path_factory.mktemp("two"), pair)
    runs.config(_ITERS + "train_cfg.update(val_begin=1)\ndefault_hooks = dict(checkpoint=dict(save_best='auto'))\n")
    assert runs.train("--work-dir", "run") == [0], runs.said
    assert (runs.folder / "run/iter_2.pth").exists() and list((runs.folder / "run").glob("best_*.pth"))
    return runs.folder / "run"


def differ(one: dict, other: dict) -> bool:
    return any(not torch.equal(one["state_dict"][key], other["state_dict"][key]) for key in one["state_dict"])


# --- other settings than the checkpoint's


def test_on_more_processes_it_trains_all_epochs_that_are_left_and_says_what_changed(runs):
    runs.config(_EPOCHS)
    assert runs.train("--work-dir", "run") == [0], runs.said
    options = ["train_cfg.max_epochs=4", "optim_wrapper.optimizer.lr=0.5", "model.distiller.loss.top_k=3"]
    options += ["randomness.seed=7"]
    codes = runs.train("--work-dir", "run", "--resume", "--cfg-options", *options, processes=2)
    assert codes == [0, 0], runs.said
    assert "an epoch has 2 iterations now (2 process(es) with batch size 2) and had 4 (1 process(es)" in runs.said
    assert "continues at the start of epoch 3; its iterations are counted on from 8" in runs.said
    for done in range(1, 3):
        assert re.search(rf"Epoch\(train\) +\[4\]\[{done}/2\]", runs.said)
    assert runs.checkpoint("epoch_4.pth")["meta"]["iter"] == 12
    assert differ(runs.checkpoint("epoch_2.pth"), runs.checkpoint("epoch_4.pth"))

    assert "optim_wrapper.optimizer.lr: was 0.001, is 0.5; used: 0.001, the checkpoint's" in runs.said
    assert "randomness.seed: was 0, is 7; used: 0, the checkpoint's" in runs.said
    assert "model.distiller.loss.top_k: was 2, is 3; used: 3, the config's" in runs.said
    assert "train_cfg.max_epochs: was 2, is 4; used: 4, the config's" in runs.said
    assert re.search(r"\[3\]\[1/2\]  lr: 1\.0000e-03", runs.said)


def test_the_config_that_a_resumed_run_saves_starts_anew_elsewhere(runs, two_iterations):
    shutil.copytree(two_iterations, runs.folder / "run")
    runs.config(_ITERS + "randomness = dict(seed=None)\n")
    assert runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=3") == [0], runs.said
    saved = Config.fromfile(runs.folder / "run" / "config.py")
    assert (saved.resume, saved.load_from, saved.randomness) == (False, None, dict(seed=None))


def test_a_pair_does_not_resume_a_detector_alone(runs):
    (runs.folder / "config.py").write_text(f"_base_ = ['{runs.pair.student}']\n{_ITERS}")
    assert runs.train("--work-dir", "run") == [0], runs.said
    runs.config(_ITERS)
    assert runs.train("--work-dir", "run", "--resume") == [1]
    assert "iter_2.pth' is of a detector alone, not of a distillation, so this pair can't resume from it" in runs.said


def test_inside_an_epoch_of_other_batches_it_starts_that_epoch_again(runs):
    runs.config(_MIDDLE)
    assert runs.train("--work-dir", "run") == [0], runs.said  # leaves iter_3 of 4
    codes = runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_dataloader.batch_size=4")
    assert codes == [0], runs.said
    assert "start of epoch 1, the 3 iterations done of it are repeated" in runs.said
    assert "train_dataloader.batch_size: was 2, is 4; used: 4, the config's" in runs.said
    assert [f"[{n}/2]" in runs.said for n in (1, 2)] == [True, True]


def test_inside_an_epoch_the_log_counts_on(runs):
    runs.config(_MIDDLE)
    assert runs.train("--work-dir", "run") == [0], runs.said
    assert runs.train("--work-dir", "run", "--resume") == [0], runs.said
    assert re.findall(r"Epoch\(train\) +(\[\d+\]\[\d+/\d+\])", runs.said) == ["[1][4/4]"]
    assert "The config differs" not in runs.said


_RANDOM = f"""
train_cfg = dict(max_iters=6, val_interval=3, val_begin=1)
{AUGMENTED}
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(momentum=0.9))
custom_hooks += [dict(type='EMAHook', momentum=0.1), dict(type='Precision')]
# A loss with a connector, which is trained with the student.
connector = dict(type='mmrazor.ConvModuleConnector', in_channel=16, out_channel=16, act_cfg=None)
pkd = dict(type='mmrazor.PKDLoss', levels=[0], student_connector=connector)
model = dict(distiller=dict(feature_losses=dict(loss_pkd=pkd)))
"""


@pytest.mark.parametrize(("amp", "precision"), [((), "float32"), (("--amp",), "bfloat16")])
def test_two_killed_processes_end_with_the_bits_of_two_that_were_not(runs, amp, precision):
    runs.config(_RANDOM)
    assert runs.train("--work-dir", "whole", *amp, processes=2) == [0, 0], runs.said
    runs.config(_RANDOM + "custom_hooks.append(dict(type='Watched'))\n")
    assert -signal.SIGKILL in runs.train("--work-dir", "run", *amp, processes=2, KILL="val 3"), runs.said
    assert not (runs.folder / "run/iter_4.pth").exists()
    runs.config(_RANDOM)
    assert runs.train("--work-dir", "run", "--resume", *amp, processes=2) == [0, 0], runs.said
    assert "resumed epoch: 0, iter: 2" in runs.said and "not exact" not in runs.said
    whole, run = runs.checkpoint("iter_6.pth", "whole"), runs.checkpoint("iter_6.pth")
    assert len(run["generator_states"]) == 2
    assert any(key.startswith("distiller.feature_losses.loss_pkd.") for key in run["state_dict"])
    for key in ("state_dict", "ema_state_dict", "optimizer", "generator_states"):
        assert_equal(run[key], whole[key], key)
    trained = (runs.folder / "whole/precision.txt").read_text().splitlines()
    # The validation computes in fp32, and the teacher takes no part in it.
    assert {line for line in trained if "teacher" in line} == {f"teacher torch.{precision}"}
    assert f"student torch.{precision}" in trained


def test_a_distillation_that_was_stopped_stays_so(runs):
    stop = _EPOCHS + "custom_hooks.append(dict(type='mmrazor.StopDistillHook', stop_epoch=1))\n"
    runs.config(stop.replace("max_epochs=2", "max_epochs=3"))
    assert runs.train("--work-dir", "whole", processes=2) == [0, 0], runs.said
    distilled = {m[1]: "distill." in m[0] for m in re.finditer(r"\[(\d)\]\[\d/2\].*", runs.said)}
    assert distilled == {"1": True, "2": False, "3": False}
    runs.config(stop)
    assert runs.train("--work-dir", "run", processes=2) == [0, 0], runs.said
    runs.config(stop.replace("max_epochs=2", "max_epochs=3"))
    assert runs.train("--work-dir", "run", "--resume", processes=2) == [0, 0], runs.said
    assert "[3][2/2]" in runs.said and "distill." not in runs.said.partition("[3][1/2]")[2]
    whole, run = runs.checkpoint("epoch_3.pth", "whole"), runs.checkpoint("epoch_3.pth")
    for key in ("state_dict", "optimizer", "generator_states"):
        assert_equal(run[key], whole[key], key)


def test_a_student_that_is_nan_in_one_process_ends_all(runs):
    runs.config(_ITERS + "custom_hooks.append(dict(type='DivergesOnRankOne'))\n")
    assert runs.train("--work-dir", "run", processes=2) == [1, 1], runs.said
    assert runs.said.count("the distillation loss became NaN or infinite in an earlier step") >= 2
    assert not list((runs.folder / "run").glob("*.pth"))


def test_a_training_locks_its_folder(runs):
    runs.config(_ITERS + "custom_hooks.append(dict(type='TriesTheLock'))\n")
    assert runs.train("--work-dir", "run") == [0], runs.said


# --- where to start


@pytest.mark.parametrize(("window", "kept"), [(2, 3), (4, 4), ("global", 5)])
def test_a_checkpoint_keeps_as_many_values_of_the_log_as_it_needs(runs, window, kept):
    few = '__import__("rekd_det.engine.runner.short_history_hook", fromlist=["_"])._KEPT = 3\n'
    longer = f"[dict(data_src='loss', method_name='mean', window_size={window!r})]"
    runs.config(_ITERS.replace("2", "5") + few + f"log_processor = dict(window_size=1, custom_cfg={longer})\n")
    assert runs.train("--work-dir", "run") == [0], runs.said
    scalars = runs.checkpoint("iter_5.pth")["message_hub"]["log_scalars"]
    assert {len(scalars[f"train/{name}"].data[0]) for name in ("loss", "loss_bbox", "distill.loss_tisd", "lr")} == {
        kept
    }


def test_without_a_checkpoint_yet_load_from_stays_in_force(runs):
    runs.config(_ITERS + f"load_from = '{runs.pair.folder}/student.pth'")
    (runs.folder / "run").mkdir()
    (runs.folder / "run/last_checkpoint").write_text("/unmounted/run/iter_9.pth")
    assert runs.train("--work-dir", "run", "--resume") == [0], runs.said
    why = "(last_checkpoint names '/unmounted/run/iter_9.pth', which is not there, or not this run's)"
    assert f"No checkpoint in run to resume from {why}: the training starts from load_from=" in runs.said
    assert re.search(r"(\d+) of \1 weights in the checkpoint match the student's \1", runs.said)
    # and once there is one, it goes on from there
    codes = runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=3")
    assert codes == [0], runs.said
    assert "resumed epoch: 0, iter: 2" in runs.said


def test_nodes_without_a_shared_disk_start_where_rank_0_does(runs):
    runs.config(_ITERS)
    assert runs.train("--work-dir", "run", nodes=2) == [0, 0], runs.said
    shutil.rmtree(runs.folder / "node1/run")
    more = ["--work-dir", "run", "--resume", "--cfg-options"]
    assert runs.train(*more, "train_cfg.max_iters=4", nodes=2) == [0, 0], runs.said
    assert "Rank 0 sent its checkpoint run/iter_2.pth to rank 1" in runs.said
    assert runs.checkpoint("iter_4.pth", "node0/run")["meta"]["iter"] == 4
    sent, kept = (runs.folder / f"node{n}/run/iter_2.pth" for n in (1, 0))
    assert sent.read_bytes() == kept.read_bytes()

    # A file of that name that is another one is nobody's to overwrite, and no ground to train on.
    shutil.copy(kept, runs.folder / "node1/run/iter_4.pth")
    assert runs.train(*more, "train_cfg.max_iters=6", nodes=2) == [1, 1], runs.said
    assert runs.said.count("'run/iter_4.pth' is another file for rank 1") == 2


def test_a_fault_that_only_rank_0_can_see_stops_all(runs):
    runs.config(_ITERS)
    (runs.folder / "node0/run").mkdir(parents=True)
    (runs.folder / "node0/run/iter_2.pth").write_bytes(b"damaged")
    assert runs.train("--work-dir", "run", "--resume", nodes=2) == [1, 1], runs.said
    assert runs.said.count("no checkpoint in 'run' can be resumed from") == 2


def test_a_copied_run_goes_on_in_its_own_folder_and_leaves_the_original_alone(runs, two_iterations):
    shutil.copytree(two_iterations, runs.folder / "original")
    text = (runs.folder / "original/last_checkpoint").read_text().replace(str(two_iterations), "{folder}")
    (runs.folder / "original/last_checkpoint").write_text(text.format(folder=runs.folder / "original"))
    shutil.copytree(runs.folder / "original", runs.folder / "copy")
    before = {p: p.read_bytes() for p in (runs.folder / "original").glob("*.pth")}
    runs.config(_ITERS + "default_hooks = dict(checkpoint=dict(save_best='auto', max_keep_ckpts=1))\n")
    codes = runs.train("--work-dir", "copy", "--resume", "--cfg-options", "train_cfg.max_iters=3")
    assert codes == [0], runs.said
    assert f"Load checkpoint from {'copy/iter_2.pth'}" in runs.said
    assert {p: p.read_bytes() for p in (runs.folder / "original").glob("*.pth")} == before
    assert (runs.folder / "copy/last_checkpoint").read_text() == str(runs.folder / "copy/iter_3.pth")


def test_a_second_training_in_a_folder_is_refused(runs, two_iterations):
    shutil.copytree(two_iterations, runs.folder / "run")
    runs.config(_ITERS + '__import__("rekd_det.engine.runner.alone", fromlist=["_"])._PATIENCE = 0\n')
    files = [*(runs.folder / "run").glob("*.pth"), *(runs.folder / "run").glob("*.py")]
    before = {p: p.read_bytes() for p in files}
    assert {p.suffix for p in before} == {".pth", ".py"}
    with FileLock(runs.folder / "run/.training.lock"):
        assert runs.train("--work-dir", "run", processes=2) == [1, 1]
    assert re.search("another training runs in '.*run': wait for its end", runs.said)
    assert {p: p.read_bytes() for p in files} == before


def test_resume_continues_the_training_that_was_started_last(runs, two_iterations):
    """Though it has written no checkpoint yet, and the folder has those of an earlier one."""
    shutil.copytree(two_iterations, runs.folder / "run")
    before = (runs.folder / "run/iter_2.pth").read_bytes()
    runs.config(_ITERS + "default_hooks = dict(checkpoint=dict(interval=9, save_last=False))\n")
    started = ("--work-dir", "run", "--cfg-options", f"load_from={runs.folder / 'run/iter_2.pth'}")
    assert runs.train(*started, processes=2) == [0, 0], runs.said
    assert "run had checkpoints of an earlier training (iter_2.pth). This one starts anew" in runs.said
    (earlier,) = (runs.folder / "run").glob("earlier_*")
    assert (earlier / "iter_2.pth").read_bytes() == before
    assert len(list(earlier.glob("best_*.pth"))) == 1 and not list((runs.folder / "run").glob("*.pth"))
    runs.config(_ITERS)
    assert runs.train(*started, "--resume") == [0], runs.said  # as a queue starts a killed job again
    assert "No checkpoint in run to resume from: the training starts from load_from=" in runs.said
    assert f"iter_2.pth' was moved when a later training started in its folder: using '{earlier}/iter_2" in runs.said
    assert runs.checkpoint("iter_2.pth")["meta"]["iter"] == 2


def test_resume_does_not_continue_another_training_than_the_one_that_was_named_last(runs, two_iterations):
    """Of another folder, and killed before its first checkpoint."""
    shutil.copytree(two_iterations, runs.folder / "run")
    shutil.copytree(two_iterations, runs.folder / "other")
    named = runs.folder / "other/iter_2.pth"
    runs.config(_ITERS + "default_hooks = dict(checkpoint=dict(interval=9, save_last=False))\n")
    longer = ("--cfg-options", "train_cfg.max_iters=3")
    assert runs.train("--work-dir", "run", "--resume", named, *longer) == [0], runs.said
    assert f"(iter_2.pth). This one continues {named}, and they are in " in runs.said
    assert runs.train("--work-dir", "run", "--resume", *longer) == [1]
    assert f"names '{named}', a checkpoint of another run" in runs.said
    runs.config(_ITERS)
    assert runs.train("--work-dir", "run", "--resume", named, *longer) == [0], runs.said
    assert runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=4") == [0], runs.said
    assert "iter: 3" in runs.said


def test_resume_continues_from_the_checkpoint_that_was_named_last(runs):
    runs.config(_ITERS + "default_hooks = dict(checkpoint=dict(interval=1))\n")
    assert runs.train("--work-dir", "run") == [0], runs.said
    runs.config(_ITERS + "default_hooks = dict(checkpoint=dict(interval=9, save_last=False))\n")
    (runs.folder / "link").symlink_to("run")
    assert runs.train("--work-dir", "run", "--resume", "link/iter_1.pth") == [0], runs.said
    assert runs.train("--work-dir", "run", "--resume") == [0], runs.said
    assert "resumed epoch: 0, iter: 1" in runs.said


@pytest.mark.parametrize(
    "schedule",
    ["[dict(type='MultiStepLR', milestones=[5])]", "[warmup, dict(type='CosineAnnealingLR', T_max=9)]", "None"],
    ids=["without the warm-up", "of another type", "none"],
)
def test_another_schedule_does_not_get_the_state_of_the_checkpoints(runs, schedule):
    """mmengine pairs them by their order, and the last one would take over the warm-up's end."""
    warmup = "warmup = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=9)\nparam_scheduler = "
    runs.config(_ITERS + warmup + "[warmup, dict(type='MultiStepLR', milestones=[5])]\n")
    assert runs.train("--work-dir", "run") == [0], runs.said
    runs.config(_ITERS + warmup + schedule)
    assert runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=3") == [1]
    assert "iter_2.pth' can't be resumed from: it holds the state of another learning rate schedule" in runs.said
    assert "schedulers have end_factor, param_name, start_factor, total_iters; gamma, milestones" in runs.said


def test_a_layer_of_another_shape_is_not_resumed_as_a_random_one(runs, two_iterations):
    """Plain SGD has no state that would not fit, so mmengine would train on."""
    shutil.copytree(two_iterations, runs.folder / "run")
    runs.config(_ITERS + "optim_wrapper = dict(optimizer=dict(momentum=0.0))\n")
    wider = ("--cfg-options", "model.architecture.roi_head.bbox_head.fc_out_channels=24", "train_cfg.max_iters=3")
    assert runs.train("--work-dir", "run", "--resume", *wider) == [1]
    assert "run/iter_2.pth' can't be resumed from: the model's weight 'architecture.roi_head.bbox_head." in runs.said
    assert "Set back what the config changes, or start from its weights alone" in runs.said
    assert not (runs.folder / "run/iter_3.pth").exists()


def test_the_best_checkpoint_has_no_schedule_to_resume(runs, two_iterations):
    shutil.copytree(two_iterations, runs.folder / "run")
    (best,) = (runs.folder / "run").glob("best_*.pth")
    resume = ("--work-dir", "run", "--resume", best, "--cfg-options", "train_cfg.max_iters=3")
    runs.config(_ITERS + "param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=9)]\n")
    assert runs.train(*resume) == [1]
    assert f"checkpoint '{best}' can't be resumed from: it has no learning rate schedule" in runs.said
    runs.config(_ITERS)
    assert runs.train(*resume) == [0], runs.said
    assert "this resume is not exact: the checkpoint has no state of the optimizer" in runs.said
    for path in (runs.folder / "run").glob("iter_*.pth"):
        path.unlink()
    assert runs.train("--work-dir", "run", "--resume") == [0], runs.said
    assert f"run had checkpoints of an earlier training ({best.name}). This one starts anew" in runs.said


def test_averaged_weights_without_their_hook_are_said(runs):
    runs.config(_ITERS + "custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook')]\n")
    assert runs.train("--work-dir", "run") == [0], runs.said
    runs.config(_ITERS)
    assert runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=3") == [0], runs.said
    assert "this resume is not exact: the checkpoint's weights are EMAHook's average" in runs.said


def test_names_with_a_folder(runs):
    runs.config(_ITERS + "default_hooks = dict(checkpoint=dict(filename_tmpl='kept/at_{}.pth'))\n")
    assert runs.train("--work-dir", "run") == [0], runs.said
    assert (runs.folder / "run/kept/at_2.pth").exists()
    shutil.move(runs.folder / "run", runs.folder / "moved")
    (runs.folder / "moved/kept/.at_4.pth.77.partial").touch()
    codes = runs.train("--work-dir", "moved", "--resume", "--cfg-options", "train_cfg.max_iters=4")
    assert codes == [0], runs.said
    assert "resumed epoch: 0, iter: 2" in runs.said
    assert sorted(p.name for p in (runs.folder / "moved/kept").iterdir()) == ["at_2.pth", "at_4.pth"]


# --- kills, full disks


@pytest.mark.parametrize("loop", ["epochs", "iterations"])
def test_a_last_validation_that_was_killed_is_made_good(runs, loop):
    loop = {
        "epochs": _EPOCHS.replace("interval=1)", "interval=1, save_best='auto')").replace("100", "1"),
        "iterations": _ITERS.replace("100", "1") + "default_hooks = dict(checkpoint=dict(save_best='auto'))\n",
    }[loop]
    runs.config(loop + "custom_hooks = [*_base_.custom_hooks, dict(type='Watched')]\n")
    assert runs.train("--work-dir", "run", KILL="val 2") == [-9], runs.said
    assert "bbox_mAP_50" not in runs.said.rpartition("Saving checkpoint")[2]
    runs.config(loop)
    assert runs.train("--work-dir", "run", "--resume") == [0], runs.said
    assert "written before its validation, which may have been interrupted" in runs.said
    assert "coco/bbox_mAP_50" in runs.said
    assert list((runs.folder / "run").glob("best_*.pth"))


def test_a_full_disk_ends_with_a_message_and_the_last_good_checkpoint(runs, two_iterations):
    shutil.copytree(two_iterations, runs.folder / "run")
    before = {p.name: p.read_bytes() for p in (runs.folder / "run").glob("*.pth")}
    runs.config(_ITERS + "default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))\n")
    more = ["--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=4"]
    assert runs.train(*more, LARGEST_FILE=str(100_000)) == [1], runs.said
    assert re.search(r"error: checkpoint '.*run/iter_4.pth' can't be written \(File too large\)", runs.said)
    assert "Traceback" not in runs.said
    assert {p.name: p.read_bytes() for p in (runs.folder / "run").glob("*.pth")} == before
    assert not list((runs.folder / "run").glob(".*.partial"))
    assert runs.train(*more) == [0], runs.said
    assert "resumed epoch: 0, iter: 2" in runs.said


# --- other people's parts


def test_a_streamed_data_set_trains_and_resumes_with_a_warning(runs):
    stream = "_base_.train_dataloader.update(sampler=None, batch_sampler=None)\n"
    stream += "train_dataloader = dict(_delete_=True, batch_size=2, num_workers=0, sampler=None, "
    stream += "dataset=dict(type='StreamedDataset', dataset=_base_.train_dataloader.dataset))\n"
    runs.config(_ITERS + stream)
    assert runs.train("--work-dir", "run") == [0], runs.said
    codes = runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=3")
    assert codes == [0], runs.said
    assert "not exact: its training data can't be seeded by sample" in runs.said


def test_a_hook_that_saves_on_rank_0_alone_does_not_deadlock(runs):
    runs.config(_ITERS + "custom_hooks = [*_base_.custom_hooks, dict(type='SavesOnRankZero')]\n")
    assert runs.train("--work-dir", "run", processes=2) == [0, 0], runs.said
    assert runs.checkpoint("mine.pth")["state_dict"].keys() == runs.checkpoint("iter_2.pth")["state_dict"].keys()
    assert len(runs.checkpoint("iter_2.pth")["generator_states"]) == 2


def test_what_is_not_restored_is_named(runs):
    pipeline = """
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='CachedMosaic', img_scale=(64, 64), max_cached_images=8),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='CachedMixUp', img_scale=(64, 64), ratio_range=(1.0, 1.0), max_cached_images=8),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
"""
    runs.config(_ITERS + pipeline)
    assert runs.train("--work-dir", "run") == [0], runs.said
    codes = runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=3")
    assert codes == [0], runs.said
    assert "not exact: CachedMosaic, CachedMixUp mix images that earlier samples have left" in runs.said


@pytest.mark.parametrize("stopped_at", [1, 2, 3])
def test_early_stopping_counts_on(runs, stopped_at):
    # No AP is 2 above another, so the second validation after the first ends it, the first having the best checkpoint.
    stopping = "dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', min_delta=2, patience=2)"
    every = "default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1, save_best='auto'))\n"
    runs.config(f"train_cfg = dict(max_iters=9, val_interval=1, val_begin=1)\n{every}custom_hooks.append({stopping})\n")
    assert runs.train("--work-dir", "run", "--cfg-options", f"train_cfg.max_iters={stopped_at}") == [0], runs.said
    assert runs.train("--work-dir", "run", "--resume") == [0], runs.said
    assert "not exact" not in runs.said
    assert (runs.folder / "run/iter_3.pth").exists() and not (runs.folder / "run/iter_4.pth").exists()


def test_early_stopping_counts_another_metric_anew(runs):
    stopping = "dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', min_delta=2, patience=2)"
    every = "default_hooks = dict(checkpoint=dict(interval=1))\n"
    config = f"train_cfg = dict(max_iters=9, val_interval=1, val_begin=1)\n{every}custom_hooks.append({stopping})\n"
    runs.config(config)
    assert runs.train("--work-dir", "run", "--cfg-options", "train_cfg.max_iters=2") == [0], runs.said
    runs.config(config.replace("bbox_mAP", "bbox_mAP_50"))
    assert runs.train("--work-dir", "run", "--resume") == [0], runs.said
    assert (runs.folder / "run/iter_4.pth").exists() and not (runs.folder / "run/iter_5.pth").exists()


def test_what_early_stopping_has_ended_says_so(runs):
    stopping = "dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', stopping_threshold=-1)"
    config = _ITERS.replace("100", "1") + "default_hooks = dict(checkpoint=dict(interval=1, save_best='auto'))\n"
    runs.config(f"{config}custom_hooks.append({stopping})\n")
    assert runs.train("--work-dir", "run") == [0], runs.said
    assert runs.train("--work-dir", "run", "--resume") == [0], runs.said
    assert "EarlyStoppingHook(coco/bbox_mAP) had ended this training: it goes on only with another st" in runs.said
    assert not (runs.folder / "run/iter_2.pth").exists()


def test_statistics_of_a_dynamic_head_are_named(runs):
    dynamic = dict(iou_topk=75, beta_topk=10, update_iter_interval=100, initial_iou=0.4, initial_beta=1.0)
    loss = dict(_delete_=True, type="SmoothL1Loss", beta=1.0)
    head = dict(type="DynamicRoIHead", bbox_head=dict(loss_bbox=loss))
    student = dict(roi_head=head, train_cfg=dict(rcnn=dict(dynamic_rcnn=dynamic)))
    runs.config(f"{_ITERS}model = dict(architecture={student!r})\n")
    assert runs.train("--work-dir", "run") == [0], runs.said
    assert runs.train("--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_iters=3") == [0], runs.said
    assert re.search("not exact: .*DynamicRoIHead", runs.said)


def test_without_the_students_loss_ddp_trains(runs):
    runs.config(_ITERS.replace("max_iters=2", "max_iters=3"))
    codes = runs.train("--work-dir", "run", "--cfg-options", "model.calculate_student_loss=False", processes=2)
    assert codes == [0, 0], runs.said
    assert "find_unused_parameters is set to True" in runs.said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["model_wrapper_cfg.type=MMFullyShardedDataParallel"],
            "model_wrapper_cfg.type='MMFullyShardedDataParallel' is not supported",
        ),
        (
            ["model_wrapper_cfg.type=MMSeparateDistributedDataParallel"],
            "model_wrapper_cfg.type='MMSeparateDistributedDataParallel' is not supported",
        ),
        (
            ["model.calculate_student_loss=False", "model.architecture.backbone.with_cp=True"],
            "model.calculate_student_loss=False with several processes does not go with the backbone's with_cp=True",
        ),
        (
            [
                *("model_wrapper_cfg.type=MMDistributedDataParallel", "model_wrapper_cfg.static_graph=True"),
                "model.calculate_student_loss=False",
                *("custom_hooks.0.type=mmrazor.StopDistillHook", "custom_hooks.0.stop_epoch=1"),
            ],
            "model_wrapper_cfg.static_graph=True with model.calculate_student_loss=False does not go with",
        ),
    ],
    ids=["fsdp", "separate", "with_cp", "stop"],
)
def test_what_ddp_can_not_train_is_refused_by_name(runs, options, message):
    runs.config(_ITERS)
    codes = runs.train("--work-dir", "run", "--cfg-options", *options, processes=2)
    assert codes == [1, 1], runs.said
    assert f"error: {message}" in runs.said
    assert "Traceback" not in runs.said
