import copy
import subprocess
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair, resolve_model_config, student_config, teacher_config

R101 = "mmdet::faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py"

PAIR = """
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py']
custom_hooks = [
    dict(type='mmrazor.PairCheckHook'),
    dict(type='mmrazor.StopDistillHook', stop_epoch=3),
    dict(type='NumClassCheckHook'),
]
model = dict(
    _delete_=True,
    type='mmrazor.ReKDDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py'),
    teacher_ckpt='teacher.pth',
)
"""


@pytest.fixture
def pair_file(tmp_path: Path) -> str:
    path = tmp_path / "pair.py"
    path.write_text(PAIR)
    return str(path)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_model_config_comes_back_as_an_independent_copy():
    spec = dict(type="FasterRCNN", backbone=dict(depth=50))
    model = resolve_model_config(spec)
    assert model == spec
    model.backbone.depth = 18
    assert spec["backbone"]["depth"] == 50


@pytest.mark.parametrize("spec", [R101, dict(cfg_path=R101), ConfigDict(cfg_path=R101)])
def test_a_config_of_a_package(spec):
    model = resolve_model_config(spec)
    assert (model.type, model.backbone.depth) == ("FasterRCNN", 101)
    assert "_scope_" not in model


@pytest.mark.parametrize(
    "options",
    [{"model.backbone.depth": 50}, {"model": {"backbone": {"depth": 50}}}],
    ids=["dotted", "nested"],
)
def test_options_override_the_named_config(options):
    model = resolve_model_config(dict(cfg_path=R101, cfg_options=options))
    assert model.backbone.depth == 50
    assert model.backbone.num_stages == 4


def test_a_path_to_a_pair_means_its_student(pair_file):
    assert resolve_model_config(pair_file).backbone.depth == 50


def test_a_preprocessor_and_a_scope_beside_the_model_come_along(tmp_path):
    text = "default_scope = 'mmpretrain'\ndata_preprocessor = dict(type='X', mean=[1, 2, 3])\nmodel = dict(type='Y')\n"
    model = resolve_model_config(write(tmp_path / "other.py", text))
    assert model.data_preprocessor.mean == [1, 2, 3]
    assert model._scope_ == "mmpretrain"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (3, "model.teacher must be a model config .* is int"),
        (dict(cfg_path=None), "model.teacher.cfg_path must be a config's path"),
        ("mmdet::_base_/default_runtime.py", "default_runtime.py' defines no `model`"),
        (dict(cfg_path=R101, pretrained=True), "pretrained=True is not supported.*teacher_ckpt"),
        (
            dict(cfg_path=R101, cfg_options={"backbone.depth": 50}),
            "'backbone.depth' names nothing.*'model.backbone.depth'",
        ),
        (
            dict(cfg_path=R101, cfg_options={"model.backbone.depth.x": 1}),
            "model.teacher.cfg_options do not fit 'mmdet::.*faster-rcnn_r101.*depth is a dict",
        ),
        (
            dict(cfg_path=R101, cfg_options={"param_scheduler.1": 5}),
            "model.teacher.cfg_options param_scheduler.1 can't be set in 'mmdet::.*after a number there must be a key",
        ),
    ],
)
def test_what_names_no_model_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        resolve_model_config(spec, "model.teacher")


def test_a_missing_package_is_not_installed_behind_the_users_back(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "check_call", refuse)
    with pytest.raises(InputError, match="no package `mmpose` is installed"):
        resolve_model_config("mmpose::folder/file.py")


def test_the_student_of_a_pair_stands_alone(pair_file):
    cfg = Config.fromfile(pair_file)
    before = copy.deepcopy(cfg)
    student = student_config(cfg)
    assert not is_pair(student.model)
    assert student.model == cfg.model.architecture
    assert [hook.type for hook in student.custom_hooks] == ["NumClassCheckHook"]
    student.model.backbone.depth = 18
    assert cfg.to_dict() == before.to_dict()


def test_the_algorithms_own_preprocessor_is_the_students(pair_file):
    cfg = Config.fromfile(pair_file)
    cfg.model.data_preprocessor = dict(type="DetDataPreprocessor", mean=[1.0, 2.0, 3.0])
    assert student_config(cfg).model.data_preprocessor.mean == [1.0, 2.0, 3.0]


def test_a_plain_config_stays_as_it_is():
    cfg = Config(dict(model=dict(type="FasterRCNN"), custom_hooks=[dict(type="EMAHook")]))
    alone = student_config(cfg)
    assert alone.to_dict() == cfg.to_dict()
    assert alone is not cfg


def test_the_teacher_of_a_pair_with_its_checkpoint(pair_file):
    teacher = teacher_config(Config.fromfile(pair_file))
    assert teacher.model.backbone.depth == 101
    assert teacher.load_from == "teacher.pth"
    assert [hook.type for hook in teacher.custom_hooks] == ["NumClassCheckHook"]
    assert teacher.test_dataloader.batch_size == 1


def test_the_teacher_alone_has_the_preprocessor_that_it_has_in_the_pair(pair_file):
    cfg = Config.fromfile(pair_file)
    cfg.model.teacher = dict(type="FasterRCNN")
    cfg.model.data_preprocessor = dict(mean=[1.0, 2.0, 3.0])
    assert teacher_config(cfg).model.data_preprocessor.mean == [1.0, 2.0, 3.0]
