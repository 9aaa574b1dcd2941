"""VGG (Simonyan and Zisserman, ICLR 2015) for CIFAR, with batch norm and without its large linear layers."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from mmrazor.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class CIFARVGG(BaseModule):
    """Five stages of 64 to 512 channels; the map is halved after each of the first three.

    Args:
        depth: 8 (one convolution in each stage) or 13 (two).
        init_cfg: as in mmengine's ``BaseModule``.

    Raises:
        ValueError: for another depth.
    """

    def __init__(self, depth: int, init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg or [dict(type="Kaiming", layer="Conv2d"), dict(type="Constant", layer="BN", val=1.0)])
        if depth not in (8, 13):
            raise ValueError(f"CIFARVGG: depth must be 8 or 13, got {depth}")
        layers: list[nn.Module] = []
        inputs = 3
        for stage, outputs in enumerate((64, 128, 256, 512, 512)):
            for _ in range(1 if depth == 8 else 2):
                layers.append(ConvModule(inputs, outputs, 3, padding=1, bias=True, norm_cfg=dict(type="BN")))
                inputs = outputs
            if stage < 3:
                layers.append(nn.MaxPool2d(2))
        self.layers = Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """``(B, 3, H, W)`` to one map ``(B, 512, H / 8, W / 8)``."""
        return (self.layers(x),)
