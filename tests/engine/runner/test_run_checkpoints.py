"""What a distillation's checkpoints hold, and what a training may start from."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import RUNNERS

from rekd_det.models.utils.finite_guard import FiniteGuard, NonFiniteLoss
from rekd_det.utils.errors import CheckpointError, InputError
from rekd_det.utils.read_as_data import load_plain

# A student of some size: beside 3 M parameters and their momentum, what else is stored must be small.
_WIDE = {
    "backbone.base_channels": 32,
    "neck.in_channels": [32, 64, 128, 256],
    "roi_head.bbox_head.fc_out_channels": 512,
}


def train(config: Path, work_dir: Path, **options) -> Path:
    """One iteration in this process; returns its checkpoint."""
    cfg = Config.fromfile(str(config))
    optimizer = dict(type="SGD", lr=0.001, momentum=0.9)
    cfg.merge_from_dict(
        {
            "work_dir": str(work_dir),
            # Runs of one name that start in the same second share a log.
            "experiment_name": f"{work_dir.parent.name}-{work_dir.name}",
            "train_cfg.max_iters": 1,
            "optim_wrapper.optimizer": optimizer,
            **options,
        }
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    RUNNERS.build(cfg).train()
    return work_dir / "iter_1.pth"


def log_of(work_dir: Path) -> str:
    return "".join(path.read_text() for path in work_dir.rglob("*.log"))


def test_a_checkpoint_is_as_large_as_plain_mmdets(pair, tmp_path):
    wide = {f"model.{k}": v for k, v in _WIDE.items()}
    plain = train(pair.student, tmp_path / "plain", runner_type="Runner", **wide)
    wide = {f"model.architecture.{k}": v for k, v in _WIDE.items()}
    distilled = train(pair.pair, tmp_path / "distilled", runner_type="ReKDRunner", **wide)
    assert plain.stat().st_size > 10e6
    assert distilled.stat().st_size == pytest.approx(plain.stat().st_size, rel=0.02)

    ours, theirs = (load_plain(p) for p in (distilled, plain))
    assert set(ours) == {*theirs, "generator_states", "input_sizes", "data_position"}
    assert {k.removeprefix("architecture.") for k in ours["state_dict"]} == set(theirs["state_dict"])
    assert all(k.startswith("architecture.") for k in ours["state_dict"])
    assert len(ours["optimizer"]["state"]) == len(theirs["optimizer"]["state"])


@pytest.mark.parametrize("runner_type", ["Runner", "ReKDRunner"])
def test_a_plain_students_checkpoint_is_loaded_and_counted(pair, tmp_path, runner_type):
    options = {"runner_type": runner_type, "optim_wrapper.optimizer": dict(type="SGD", lr=0.0)}
    start = torch.load(pair.folder / "student.pth", weights_only=True)["state_dict"]
    path = train(pair.pair, tmp_path, load_from=str(pair.folder / "student.pth"), **options)
    weights = load_plain(path)["state_dict"]
    for key, value in start.items():
        if "running" not in key and "num_batches" not in key:
            assert torch.equal(weights[f"architecture.{key}"], value), key
    assert f"{len(start)} of {len(start)} weights in the checkpoint match the student's {len(start)}" in log_of(
        tmp_path
    )


def test_a_distilled_checkpoint_is_loaded_and_counted(pair, tmp_path):
    first = train(pair.pair, tmp_path / "first", runner_type="ReKDRunner")
    train(pair.pair, tmp_path / "second", runner_type="ReKDRunner", load_from=str(first))
    count = len(load_plain(first)["state_dict"])
    assert f"{count} of {count} weights in the checkpoint match the student's {count}" in log_of(tmp_path / "second")


def test_a_nan_that_has_not_arrived_from_the_gpu_yet_is_not_saved(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(FiniteGuard, "_arrived", lambda *_: None)  # as on a GPU in the step that computes it
    weights = torch.load(pair.folder / "teacher.pth")
    weights["state_dict"]["roi_head.bbox_head.fc_cls.bias"].fill_(float("nan"))
    torch.save(weights, tmp_path / "nan.pth")
    options = {"runner_type": "ReKDRunner", "model.teacher_ckpt": str(tmp_path / "nan.pth")}
    with pytest.raises(NonFiniteLoss, match="in an earlier step"):
        train(pair.pair, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "iter_1.pth").exists()


def test_feature_maps_alone_are_distilled_from_a_teacher_of_other_categories(pair, tmp_path):
    weights = torch.load(pair.folder / "teacher.pth")
    torch.save({**weights, "meta": dict(dataset_meta=dict(classes=("one", "two")))}, tmp_path / "other.pth")
    options = {"model.teacher_ckpt": str(tmp_path / "other.pth")}
    with pytest.raises(InputError, match="the data set has 12 categories, the teacher was trained on 2"):
        train(pair.pair, tmp_path / "logits", **options)
    features = {"loss_pkd": dict(type="mmrazor.PKDLoss")}
    options |= {"model.distiller.loss": None, "model.distiller.feature_losses": features}
    checkpoint = train(pair.pair, tmp_path / "features", **options)
    assert checkpoint.is_file()


def test_weights_of_another_shape_are_named(pair, tmp_path):
    train(pair.pair, tmp_path / "run", load_from=str(pair.folder / "teacher.pth"))
    log = log_of(tmp_path / "run")
    assert re.search(r"WARNING - .* have another shape, among them architecture\.backbone\.conv1\.weight", log)


def test_counters_of_batch_norm_are_no_weights_that_match(pair, tmp_path):
    weights = load_plain(pair.folder / "teacher.pth")["state_dict"]
    counters = {k: v if k.endswith("num_batches_tracked") else v[..., None] for k, v in weights.items()}
    assert any(k.endswith("num_batches_tracked") for k in counters)
    torch.save(dict(state_dict=counters), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="none of the checkpoint's weights belongs to the student"):
        train(pair.pair, tmp_path / "run", load_from=str(tmp_path / "other.pth"))


def test_a_constructor_that_knows_a_detectors_layers_gets_the_student(pair, tmp_path):
    """mmdet's ConvNeXt detectors decay the learning rate from layer to layer."""
    backbone = dict(
        type="mmpretrain.ConvNeXt",
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64]),
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    )
    cfg = Config.fromfile(str(pair.pair))
    cfg.model.architecture.backbone = backbone
    connector = dict(type="mmrazor.ConvModuleConnector", in_channel=16, out_channel=16)
    cfg.model.distiller.feature_losses = dict(
        loss_pkd=dict(type="mmrazor.PKDLoss", levels=[0], student_connector=connector)
    )
    optimizer = dict(
        constructor="LearningRateDecayOptimizerConstructor",
        paramwise_cfg=dict(decay_rate=0.5, decay_type="layer_wise", num_layers=6),
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.05),
    )
    cfg.optim_wrapper, cfg.runner_type, cfg.work_dir = optimizer, "ReKDRunner", str(tmp_path)
    cfg.custom_imports = dict(imports=["mmpretrain.models", "rekd_det"])
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = RUNNERS.build(cfg)
    built = runner.build_optim_wrapper(runner.optim_wrapper)
    plain = build_optim_wrapper(runner.model.student, ConfigDict(optimizer))
    *rates, last = (group["lr"] for group in built.optimizer.param_groups)
    assert rates == [group["lr"] for group in plain.optimizer.param_groups] and len(set(rates)) > 3
    assert last == 0.1  # of the connector
    trained = {id(p) for p in runner.model.parameters() if p.requires_grad}
    assert trained == {id(p) for group in built.optimizer.param_groups for p in group["params"]}


def test_a_resume_inside_a_gradient_accumulation_says_what_is_lost(pair, tmp_path):
    options = {"runner_type": "ReKDRunner", "optim_wrapper.accumulative_counts": 2}
    train(pair.pair, tmp_path / "run", **options)
    train(pair.pair, tmp_path / "run", **options, **{"resume": True, "train_cfg.max_iters": 3})
    assert "the checkpoint is inside a gradient accumulation of 2 iterations" in log_of(tmp_path / "run")
