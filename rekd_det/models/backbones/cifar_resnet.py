"""The residual network for CIFAR (He et al., CVPR 2016, section 4.2), and its four times wider form 'x4'."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmdet.models.backbones.resnet import BasicBlock
from mmdet.models.layers import ResLayer
from mmengine.model import BaseModule, Sequential
from mmrazor.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class CIFARResNet(BaseModule):
    """One 3 x 3 convolution, then three stages of basic blocks.

    Args:
        depth: 6 n + 2 layers, n blocks in each stage: 8, 20, 32, 56, 110.
        channels: of the first convolution and of the stages; ``(32, 64, 128, 256)`` is 'x4' (ResNet-8x4, ResNet-32x4).
        init_cfg: as in mmengine's ``BaseModule``.

    Raises:
        ValueError: for another depth, or another number of channels.
    """

    def __init__(
        self, depth: int, channels: Sequence[int] = (16, 16, 32, 64), init_cfg: dict | list | None = None
    ) -> None:
        super().__init__(init_cfg or [dict(type="Kaiming", layer="Conv2d"), dict(type="Constant", layer="BN", val=1.0)])
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1 or len(channels) != 4:
            raise ValueError(f"CIFARResNet: depth must be 6 n + 2, with 4 channels; got {depth}, {tuple(channels)}")
        stem, *stages = channels
        self.stem = ConvModule(3, stem, 3, padding=1, norm_cfg=dict(type="BN"))
        inputs, strides = [stem, *stages[:-1]], (1, 2, 2)
        self.stages = Sequential(
            *(ResLayer(BasicBlock, i, o, blocks, stride=s) for i, o, s in zip(inputs, stages, strides, strict=True))
        )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """``(B, 3, H, W)`` to one map ``(B, channels[-1], H / 4, W / 4)``."""
        return (self.stages(self.stem(x)),)
