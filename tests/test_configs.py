"""Every shipped config is read, built and trained for one step; its claims are checked against mmdet's own files."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml
from fast_cases import fast_if
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from one_step import distillation
from tiny import total

from rekd_det.apis.zoo_models import ZOO
from rekd_det.testing.tiny_detectors import build_random, pair_of, tiny_config
from rekd_det.utils.generated_data import needs_masks
from rekd_det.utils.pair_config import is_pair, resolve_model_config
from rekd_det.utils.pretrained import drop_pretrained

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def by_name(paths):
    return dict(argvalues=paths, ids=[p.stem for p in paths])


def read(path: Path) -> Config:
    return Config.fromfile(path)


PAIRS = [p for p in CONFIGS if is_pair(read(p).model)]


@pytest.fixture(scope="module")
def zoo_weights():
    """Each checkpoint URL of mmdet's zoo, and the config that it was trained with."""
    found = {}
    for path in ZOO.glob("*/metafile.yml"):
        content = yaml.safe_load(path.read_text())
        for model in content["Models"] if isinstance(content, dict) else content:
            if isinstance(model.get("Weights"), str):
                found[model["Weights"]] = model["Config"].removeprefix("configs/")
    return found


def test_the_promised_configs_are_there():
    names = {p.stem for p in CONFIGS}
    assert {
        *(f"rekd_frcnn_{p}_coco" for p in ("r101_r18", "r101_r50", "r50_mv2")),
        *(f"rekd_mrcnn_{p}_coco" for p in ("r101_r18", "r101_r50")),
        "rekd_cascade_r101_r50_coco",
        "student_frcnn_r18_coco",
        *(f"{m}_frcnn_r101_r18_coco" for m in ("kd", "dkd", "gdkd")),
        *(f"rekd_retina_{p}_coco" for p in ("r101_r18", "r101_r50", "x101_r50")),
        *(f"rekd_gfl_{p}_coco" for p in ("r101_r18", "r101_r50")),
        *(f"rekd_{d}_r101_r50_coco" for d in ("atss", "fcos", "ld_gfl")),
        *("rekd_rtmdet_l_s_coco", "rekd_yolox_s_nano_coco", "student_gfl_r18_coco"),
    } <= names


@pytest.mark.parametrize("path", **by_name(PAIRS))
def test_a_pair_is_short_and_its_teacher_is_the_zoos(path, zoo_weights):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 12
    model = read(path).model
    config = model.teacher.cfg_path.removeprefix("mmdet::")
    assert zoo_weights.get(model.teacher_ckpt) == config


@pytest.mark.parametrize("path", **by_name(CONFIGS))
def test_students_evaluate_on_coco(path):
    cfg = read(path)
    assert cfg.val_evaluator.type == "CocoMetric"
    assert cfg.train_cfg.type.endswith("TrainLoop")
    # Where mmdet names a schedule in a file name, like 8xb32, the learning rate is for as many images.
    named = re.search(r"_(\d+)xb(\d+)-", path.read_text())
    assert cfg.auto_scale_lr.base_batch_size == (int(named[1]) * int(named[2]) if named else 16)


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        *((f"{loss}_frcnn_r101_r18", "rekd_frcnn_r101_r18") for loss in ("kd", "dkd", "gdkd")),
        ("kd_retina_r101_r18", "rekd_retina_r101_r18"),
    ],
)
def test_other_losses_share_everything_else(name, pair):
    other, rekd = (read(ROOT / f"configs/{n}_coco.py") for n in (name, pair))
    other.model.distiller.loss = rekd.model.distiller.loss
    assert other.to_dict() == rekd.to_dict()


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("frcnn_r18", "frcnn_r101_r18"),
        ("frcnn_mv2", "frcnn_r50_mv2"),
        ("mrcnn_r18", "mrcnn_r101_r18"),
        ("gfl_r18", "gfl_r101_r18"),
    ],
)
def test_controls_share_everything_but_the_distillation(name, pair):
    alone, rekd = read(ROOT / f"configs/student_{name}_coco.py"), read(ROOT / f"configs/rekd_{pair}_coco.py")
    assert alone.model == rekd.model.architecture
    for key in ("train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "test_evaluator", "auto_scale_lr"):
        assert alone[key] == rekd[key]


@pytest.mark.parametrize("path", **by_name(PAIRS))
def test_a_config_that_is_kd_is_called_so(path):
    loss = read(path).model.distiller.loss
    assert (loss.type == "mmrazor.KDLoss") == path.stem.startswith("kd_")
    if path.stem.startswith("rekd_"):
        # The plain split of sigmoids is KD where both parts weigh 1.
        assert loss.type == "mmrazor.ReKDLoss" and loss.tisd == "joint"


@pytest.mark.parametrize("path", **by_name([p for p in PAIRS if p.stem.startswith("rekd_")]))
def test_beta_is_smaller_where_sigmoids_classify(path):
    """docs/study.md: on photographs RetinaNet lost AP with 1, and no other value was better for Faster R-CNN."""
    sigmoids = path.stem.split("_")[1] in ("retina", "gfl", "ld", "atss", "fcos", "rtmdet", "dino")
    assert read(path).model.distiller.loss.beta == (0.25 if sigmoids else 1.0)


@pytest.mark.parametrize("path", **by_name(CONFIGS))
def test_cfg_options_reach_everything(path):
    cfg = read(path)
    student = "model.architecture" if is_pair(cfg.model) else "model"
    cfg.merge_from_dict({f"{student}.backbone.init_cfg": None})
    backbone = (cfg.model.architecture if is_pair(cfg.model) else cfg.model).backbone
    assert backbone.type  # the student's whole config is there: the option has changed it, and made no new one
    if is_pair(cfg.model):
        cfg.merge_from_dict({"model.distiller.loss.tau": 4.0})
        assert MODELS.build(cfg.model.distiller.loss).tau == 4.0


def test_a_student_with_hooks_of_its_own_keeps_them():
    for name, student in (
        ("rekd_yolox_s_nano_coco", "yolox/yolox_nano_8xb8-300e_coco.py"),
        ("rekd_rtmdet_l_s_coco", "rtmdet/rtmdet_s_8xb32-300e_coco.py"),
    ):
        own = [hook.type for hook in read(ZOO / student).custom_hooks]
        hooks = [hook.type for hook in read(ROOT / f"configs/{name}.py").custom_hooks]
        assert hooks[: len(own)] == own
        added = read(ROOT / "configs/rekd_retina_r101_r18_coco.py").custom_hooks
        assert hooks[len(own) :] == [hook.type for hook in added]


def test_yolox_learns_its_last_epochs_as_alone():
    from types import SimpleNamespace

    from mmdet.engine.hooks import YOLOXModeSwitchHook

    config = tiny_config("mmdet::yolox/yolox_tiny_8xb8-300e_coco.py")
    model = pair_of(build_random(config), build_random(config))
    loader = SimpleNamespace(dataset=SimpleNamespace(update_skip_type_keys=lambda keys: None))
    quiet = SimpleNamespace(info=lambda text: None)
    runner = SimpleNamespace(epoch=9, max_epochs=10, model=model, train_dataloader=loader, logger=quiet)
    YOLOXModeSwitchHook(num_last_epochs=1).before_train_epoch(runner)
    assert model.architecture.bbox_head.use_l1


def initialised(model):
    """As a Runner does it; some of mmdet's parameters hold whatever was in memory until then."""
    with redirect_stdout(io.StringIO()):  # mmengine prints a paragraph per parameter
        model.init_weights()
    return model


# Other losses differ from ReKD's config in the loss alone: one of each is enough, and they have tests of their own.
STEPPED = [p.stem for p in CONFIGS if not p.stem.startswith(("kd_", "dkd_", "gdkd_")) or p.stem.startswith("kd_retina")]


@pytest.mark.slow
@pytest.mark.parametrize("name", fast_if(STEPPED, (p.stem for p in CONFIGS)))
def test_builds_and_steps(name):
    cfg = read(ROOT / "configs" / f"{name}.py")
    torch.manual_seed(0)
    model = cfg.model
    drop_pretrained(model)
    if is_pair(model):
        # The checkpoint can't be had here: a random teacher of the same architecture stands in for it.
        teacher = resolve_model_config(model.teacher)
        drop_pretrained(teacher)
        model = model | dict(teacher=initialised(MODELS.build(teacher)), teacher_ckpt=None)
    model = initialised(MODELS.build(model)).train()
    student = model.architecture if is_pair(cfg.model) else model
    MessageHub.get_current_instance().update_info("iter", 0)  # YOLOX's preprocessor asks for it
    # A two-stage DETR picks its 900 queries among the cells of the feature maps, so the maps must have as many.
    side = 256 if hasattr(student, "encoder") else 128
    shapes, masks = [[3, side, side], [3, side, side - 32]], needs_masks(student)
    data = demo_mm_inputs(2, shapes, num_items=[3, 2], num_classes=80, with_mask=masks)
    losses = model(**model.data_preprocessor(data, True), mode="loss")
    assert torch.isfinite(total(losses))
    if is_pair(cfg.model):
        distill = distillation(losses)
        assert distill
        assert all(torch.isfinite(v) for v in distill.values())
        assert any(v > 0 for v in distill.values())
    total(losses).backward()
