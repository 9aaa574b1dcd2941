"""Backbones for images of 32 x 32 pixels, in the pairs that the literature on distillation compares on CIFAR-100.

MMPretrain lacks them. Each gives the last feature map alone, for ``GlobalAveragePooling`` and ``LinearClsHead``.
"""

from .cifar_resnet import CIFARResNet
from .cifar_shufflenet_v2 import CIFARShuffleNetV2
from .cifar_vgg import CIFARVGG
from .cifar_wide_resnet import CIFARWideResNet

__all__ = ["CIFARVGG", "CIFARResNet", "CIFARShuffleNetV2", "CIFARWideResNet"]
