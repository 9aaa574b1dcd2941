"""The wide residual network (Zagoruyko and Komodakis, BMVC 2016): norm and activation before each convolution."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.model import BaseModule, Sequential
from mmrazor.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class CIFARWideResNet(BaseModule):
    """WRN-depth-widen_factor, without dropout.

    Args:
        depth: 6 n + 4 layers, n blocks in each of three stages: 16, 28, 40.
        widen_factor: the stages have 16, 32 and 64 times as many channels.
        init_cfg: as in mmengine's ``BaseModule``.

    Raises:
        ValueError: for another depth.
    """

    def __init__(self, depth: int, widen_factor: int, init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg or [dict(type="Kaiming", layer="Conv2d"), dict(type="Constant", layer="BN", val=1.0)])
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"CIFARWideResNet: depth must be 6 n + 4, got {depth}")
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        layers, inputs = [], 16
        for outputs, stride in ((16 * widen_factor, 1), (32 * widen_factor, 2), (64 * widen_factor, 2)):
            for block in range(blocks):
                layers.append(_Block(inputs, outputs, stride if block == 0 else 1))
                inputs = outputs
        self.blocks = Sequential(*layers)
        self.norm = nn.BatchNorm2d(inputs)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """``(B, 3, H, W)`` to one map ``(B, 64 * widen_factor, H / 4, W / 4)``."""
        return (F.relu(self.norm(self.blocks(self.stem(x)))),)


class _Block(BaseModule):
    """Two convolutions, each behind its norm; where the shape changes, the shortcut sees the normed input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = F.relu(self.norm1(x))
        out = self.conv2(F.relu(self.norm2(self.conv1(normed))))
        return out + (x if self.shortcut is None else self.shortcut(normed))
