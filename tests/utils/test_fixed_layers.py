"""A model in training mode whose norms and dropout are those of eval mode."""

import torch
from mmcv.cnn.bricks import DropPath
from torch import nn

from rekd_det.utils.fixed_layers import fix_norms_and_dropout


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_every_kind_of_dropout_is_off_and_the_rest_is_in_training_mode():
    torch.manual_seed(0)
    parts = [nn.BatchNorm1d(3), nn.Dropout(0.5), DropPath(0.5), nn.Linear(8, 8), Attention()]
    for part in parts:
        model = nn.Sequential(part).train()
        x = torch.randn(16, 3, 8)
        random = not torch.equal(model(x), model(x))
        assert random == (not isinstance(part, nn.BatchNorm1d | nn.Linear))
        fix_norms_and_dropout(model)
        out = model(x)
        assert torch.equal(out, model(x))
        assert model.training
        torch.testing.assert_close(out, model.eval()(x))
