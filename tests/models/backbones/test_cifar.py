"""Backbones of the CIFAR-100 tables are those of the literature: the same shapes and the same number of weights."""

import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn

from rekd_det.utils.errors import InputError
from rekd_det.utils.registered_names import check_registered

# In millions, with a classifier for 100 classes, as "Contrastive Representation Distillation" (ICLR 2020) and its
# successors print or ship them.
NETWORKS = {
    "resnet20": (dict(type="CIFARResNet", depth=20), 64, 8, 0.28),
    "resnet56": (dict(type="CIFARResNet", depth=56), 64, 8, 0.86),
    "resnet8x4": (dict(type="CIFARResNet", depth=8, channels=(32, 64, 128, 256)), 256, 8, 1.23),
    "resnet32x4": (dict(type="CIFARResNet", depth=32, channels=(32, 64, 128, 256)), 256, 8, 7.43),
    "wrn_16_2": (dict(type="CIFARWideResNet", depth=16, widen_factor=2), 128, 8, 0.70),
    "wrn_40_2": (dict(type="CIFARWideResNet", depth=40, widen_factor=2), 128, 8, 2.26),
    "vgg8": (dict(type="CIFARVGG", depth=8), 512, 4, 3.97),
    "vgg13": (dict(type="CIFARVGG", depth=13), 512, 4, 9.46),
    "shufflenet_v2": (dict(type="CIFARShuffleNetV2", widen_factor=1.0), 1024, 4, 1.36),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_sizes(name):
    config, channels, side, millions = NETWORKS[name]
    backbone = MODELS.build(dict(config, _scope_="mmrazor"))
    backbone.init_weights()
    (out,) = backbone(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, channels, side, side)
    weights = sum(p.numel() for m in (backbone, nn.Linear(channels, 100)) for p in m.parameters())
    assert round(weights / 1e6, 2) == pytest.approx(millions, abs=0.011)
    out.mean().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize(
    "config",
    [
        dict(type="CIFARResNet", depth=18),
        dict(type="CIFARResNet", depth=20, channels=(16, 32, 64)),
        dict(type="CIFARWideResNet", depth=20, widen_factor=2),
        dict(type="CIFARVGG", depth=16),
    ],
)
def test_an_unknown_depth_is_refused(config):
    with pytest.raises(ValueError, match=f"{config['type']}: depth must be"):
        MODELS.build(dict(config, _scope_="mmrazor"))


def test_a_checkpoints_own_config_may_name_them_and_nothing_else_of_this_package():
    config = dict(default_scope="mmpretrain", model=dict(backbone=dict(type="mmrazor.CIFARResNet", depth=8)))
    check_registered(config, "x.pth")
    config["model"]["backbone"] = dict(type="mmrazor.ReKDDistill")
    with pytest.raises(InputError, match=r"names type='mmrazor.ReKDDistill'"):
        check_registered(config, "x.pth")
