"""Configs whose types are classes: which name each gets, and in which scope."""

import pytest
from mmengine.config import Config

from rekd_det.apis.config_file import read_config
from rekd_det.utils.pair_config import classifies_images, resolve_model_config

IMPORTS = """
from mmcv.cnn.bricks import HSigmoid
from mmdet.models import ResNet as DetResNet
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import DefaultOptimWrapperConstructor
from rekd_det.models.losses import DKDLoss
from torch.nn import BatchNorm2d
"""


def read(tmp_path, text):
    path = tmp_path / "config.py"
    path.write_text(IMPORTS + text)
    return read_config(str(path))


def test_names_are_those_of_the_default_scope(tmp_path):
    text = """
default_scope = 'mmpretrain'
model = dict(type=DetResNet, norm_cfg=dict(type=BatchNorm2d), act=[dict(type=HSigmoid)], loss=dict(type=DKDLoss))
optim_wrapper = dict(constructor=DefaultOptimWrapperConstructor)
custom_hooks = [dict(type=EMAHook, ema_type=ExponentialMovingAverage)]
"""
    cfg = read(tmp_path, text)
    model = dict(type="mmdet.ResNet", norm_cfg=dict(type="BN"), act=[dict(type="HSigmoid")])
    assert cfg.model == model | dict(loss=dict(type="mmrazor.LogitDKDLoss"))
    assert cfg.optim_wrapper.constructor == "DefaultOptimWrapperConstructor"
    assert cfg.custom_hooks == [
        dict(type="mmengine.EMAHook", ema_type="ExponentialMovingAverage")
    ]  # mmpretrain has its own
    assert cfg.custom_imports.imports == ["rekd_det"]
    assert Config.fromstring(cfg.pretty_text, ".py").model == cfg.model


def test_a_class_that_is_not_registered_or_not_of_openmmlab_stays(tmp_path, monkeypatch):
    (tmp_path / "own_part.py").write_text(
        "from mmdet.registry import MODELS\n@MODELS.register_module()\nclass OwnPart:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = "from own_part import OwnPart\nfrom mmdet.apis import DetInferencer\n"
    cfg = read(tmp_path, text + "model = dict(type=DetResNet, a=dict(type=OwnPart), b=dict(type=DetInferencer))")
    assert cfg.model.type == "ResNet"
    assert [cfg.model[key].type.__name__ for key in "ab"] == ["OwnPart", "DetInferencer"]
    assert cfg.get("custom_imports") is None
    assert "type='own_part.OwnPart'" in cfg.pretty_text


def test_a_classifiers_scope_is_found(tmp_path):
    models = pytest.importorskip("mmpretrain.models")
    assert models.ImageClassifier
    text = "from mmpretrain.models import ImageClassifier\nmodel = dict(type=ImageClassifier)\ndefault_scope = None\n"
    cfg = read(tmp_path, text)
    assert classifies_images(cfg)
    assert resolve_model_config(str(tmp_path / "config.py"))._scope_ == "mmpretrain"
