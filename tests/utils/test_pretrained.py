"""Names of pre-trained weights, wherever a config has them."""

from mmengine.config import ConfigDict

from rekd_det.utils.pretrained import drop_pretrained


def test_all_ways_to_name_them():
    xavier = dict(type="Xavier", layer="Conv2d")
    config = ConfigDict(
        init_cfg=dict(type="Pretrained", checkpoint="whole.pth"),
        backbone=dict(pretrained="torchvision://resnet50"),
        neck=[dict(init_cfg=[xavier, dict(type="Pretrained", checkpoint="neck.pth", prefix="neck.")])],
        heads=(dict(type="mmpretrain.TIMMBackbone", pretrained=True), dict(pretrained=False), dict(init_cfg=xavier)),
    )
    names = {"whole.pth", "torchvision://resnet50", "neck.pth", "TIMMBackbone's own weights"}
    assert drop_pretrained(config) == names
    assert config == dict(
        init_cfg=None,
        backbone=dict(pretrained=None),
        neck=[dict(init_cfg=[xavier])],
        heads=(dict(type="mmpretrain.TIMMBackbone", pretrained=False), dict(pretrained=False), dict(init_cfg=xavier)),
    )
    assert not drop_pretrained(config)
