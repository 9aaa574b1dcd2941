"""Layers of a model in training mode that are put in eval mode, so that the model draws no random numbers."""

from __future__ import annotations

from torch import nn


def fix_norms_and_dropout(model: nn.Module) -> None:
    """Put batch norms and every kind of dropout in eval mode; the rest stays as it is.

    Dropout is torch's modules, stochastic depth and others of mmcv's (``DropPath``, ``DropBlock``), and the number
    ``dropout`` of ``nn.MultiheadAttention``, which is set to 0.
    """
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        fixed = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
        if isinstance(module, fixed) or "Drop" in type(module).__name__:
            module.eval()
