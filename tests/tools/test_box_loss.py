"""`model.distiller.box_loss` through the command lines: the shipped pair trains at a tiny size, mistakes are told."""

import copy
import re
from pathlib import Path

import pytest
import torch
from forked_tool import start, wait
from mmdet.registry import MODELS
from mmengine.config import Config
from tiny_pair import write_tiny_pair

from rekd_det.utils.pair_config import resolve_model_config
from rekd_det.utils.read_as_data import load_plain

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "configs" / "rekd_ld_gfl_r101_r50_coco.py"
BOX_LOSS = "model.distiller.box_loss"


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The shipped config with narrow networks, on a handful of generated images."""
    tiny = write_tiny_pair(tmp_path_factory.mktemp("pair"))
    data = Config.fromfile(str(tiny.student))
    cfg = Config.fromfile(str(SHIPPED))
    small = {
        "backbone.depth": 18,
        "backbone.base_channels": 8,
        "backbone.init_cfg": None,
        "neck.in_channels": [8, 16, 32, 64],
        "neck.out_channels": 32,
        "bbox_head.in_channels": 32,
        "bbox_head.feat_channels": 32,
        "bbox_head.num_classes": len(data.metainfo.classes),
    }
    cfg.merge_from_dict({f"model.architecture.{k}": v for k, v in small.items()})
    cfg.merge_from_dict({"model.teacher.cfg_options": {f"model.{k}": v for k, v in small.items()}})
    for key in ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        cfg[key] = data[key]
    for key in ("train_cfg", "default_hooks", "optim_wrapper"):
        cfg[key] = data[key]
    cfg.param_scheduler = None
    cfg.model.teacher_ckpt = str(tiny.folder / "teacher.pth")
    torch.manual_seed(0)
    teacher = MODELS.build(resolve_model_config(copy.deepcopy(cfg.model.teacher)))
    meta = dict(dataset_meta=dict(classes=data.metainfo.classes))
    torch.save({"state_dict": teacher.state_dict(), "meta": meta}, cfg.model.teacher_ckpt)
    path = tiny.folder / "rekd_ld.py"
    cfg.dump(str(path))
    return path


@pytest.mark.slow
def test_the_shipped_pair_trains_and_its_student_is_a_plain_gfl(pair, tmp_path):
    log = tmp_path / "log"
    arguments = [pair, "--work-dir", tmp_path / "work"]
    assert wait(start("train.py", arguments, log, tmp_path)) == [0], log.read_text()[-4000:]
    said = log.read_text()
    assert "ReKD pairs the boxes' 17 bins of each side; ReKDLoss(" in said
    assert re.search(r"first step distils head: \d+ rows, weight 1, box: [1-9]\d* rows, weight 1", said)
    for name in ("loss_tisd", "loss_ntid", "box.loss_tisd", "box.loss_ntid", "box.head_mass"):
        values = [float(x) for x in re.findall(rf"distill\.{re.escape(name)}: (\S+)", said)]
        assert len(values) == 2 and all(v > 0 for v in values), name
    keys = load_plain(tmp_path / "work" / "iter_2.pth")["state_dict"]
    assert all(key.startswith("architecture.") for key in keys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([f"{BOX_LOSS}.topk=3"], r"model\.distiller\.box_loss has no option topk; ReKDLoss takes .* mean 'top_k'"),
        ([f"{BOX_LOSS}.top_k=17"], r"model\.distiller\.box_loss: ReKDLoss: top_k=17 leaves no tail"),
        ([f"{BOX_LOSS}.type=mmrazor.ReKDLos"], r"model\.distiller\.box_loss\.type='mmrazor.ReKDLos' is not a loss"),
        (["model.distiller.box_los.type=mmrazor.KDLoss"], r"'box_los'(; did you mean 'box_loss'\?|$)"),
        (["model.architecture.bbox_head.reg_max=8"], r"model\.distiller\.box_loss: .*reg_max=8.*reg_max=16"),
    ],
)
def test_mistakes_are_told_before_training(pair, options, message, tmp_path, monkeypatch, outcome):
    monkeypatch.chdir(tmp_path)
    code, _ = outcome("train.py", pair, "--work-dir", "work", "--cfg-options", *options)
    assert re.search(message, str(code)), code
    code, said = outcome("check_pair.py", pair, "--size", 64, 96, "--cfg-options", *options)
    assert code == 1
    assert re.search(message, said.split("Mistakes\n--------\n")[1], flags=re.MULTILINE)


def test_check_pair_shows_the_boxes_loss(pair, outcome):
    code, said = outcome("check_pair.py", pair, "--size", 64, 96)
    assert code == 0, said
    assert re.search(r"^box loss +ReKDLoss\(.*top_k=4", said, flags=re.MULTILINE)
    for name in ("distill.box.loss_tisd", "distill.box.loss_ntid", "distill.box.head_mass"):
        assert re.search(rf"^{re.escape(name)} +\d", said, flags=re.MULTILINE), name
