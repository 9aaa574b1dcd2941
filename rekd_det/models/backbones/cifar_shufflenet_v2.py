"""ShuffleNetV2 (Ma et al., ECCV 2018) for CIFAR: MMPretrain's, behind a stem that keeps the size of the image."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import ConvModule
from mmrazor.registry import MODELS
from torch import nn


@MODELS.register_module()
def CIFARShuffleNetV2(**kwargs: Any) -> nn.Module:
    """MMPretrain's ``ShuffleNetV2`` with a 1 x 1 convolution of stride 1 as its stem, without pooling after it.

    Args:
        **kwargs: of MMPretrain's class; ``widen_factor=1.0`` is the size in the literature's tables.
    """
    from mmpretrain.models import ShuffleNetV2  # optional

    backbone = ShuffleNetV2(**kwargs)
    backbone.conv1 = ConvModule(3, backbone.conv1.out_channels, 1, norm_cfg=dict(type="BN"))
    backbone.maxpool = nn.Identity()
    return backbone
