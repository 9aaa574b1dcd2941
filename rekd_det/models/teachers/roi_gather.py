"""RoIAlign of a frozen network on a CPU: weighted sums of whole pixels, channels side by side."""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from torch import Tensor, nn

# Entries of all sums that are in work at a time: 12 bytes each.
_ENTRIES = 1 << 22


def can_gather(module: nn.Module) -> TypeGuard[RoIAlign]:
    """Whether :class:`GatherRoIAlign` can replace a module: a RoIAlign that averages adaptively, mmdet's default."""
    return type(module) is RoIAlign and bool(module.pool_mode == "avg" and module.sampling_ratio == 0)


class GatherRoIAlign(RoIAlign):
    """The values of mmcv's RoIAlign to rounding, at a fraction of its time on a CPU; no gradient.

    The mean of a bin's bilinear samples is a weighted sum of pixels, and its weights are a product of a factor for the
    row and one for the column. With the map's channels innermost, ``torch.nn.functional.embedding_bag`` adds up whole
    pixels in vector registers, where mmcv's loop picks four numbers for every sample and channel. Elsewhere than on a
    CPU mmcv's own kernel runs.

    Args:
        plain: what it takes the place of, see :func:`can_gather`.
    """

    def __init__(self, plain: RoIAlign) -> None:
        super().__init__(plain.output_size, plain.spatial_scale, 0, "avg", plain.aligned)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """RoI features ``(N, C, h, w)``.

        Args:
            input: ``(B, C, H, W)``, fastest in NHWC order.
            rois: ``(N, 5)``: index of the image, and a box in pixels of the image.
        """
        if input.device.type != "cpu":
            return super().forward(input.float().contiguous(), rois.float()).to(input.dtype)
        channels, height, width = input.shape[1:]
        rows, columns = self.output_size
        pixels = input.float().permute(0, 2, 3, 1).reshape(-1, channels)
        rois = rois.float()
        boxes = rois[:, 1:] * self.spatial_scale - (0.5 if self.aligned else 0.0)
        low, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        if not self.aligned:
            size = size.clamp(min=1.0)
        first = rois[:, 0].long() * (height * width)
        # As many samples per bin as it has pixels, in each direction.
        samples = torch.stack([size[:, 1] / rows, size[:, 0] / columns], 1).ceil().long()
        out = pixels.new_zeros(len(rois), rows * columns, channels)
        for down, across in samples.unique(dim=0).tolist():
            if down < 1 or across < 1:
                continue  # an empty box has the features 0
            chosen = (samples == samples.new_tensor([down, across])).all(1).nonzero().flatten()
            entries = rows * columns * (down + 1) * (across + 1)
            for part in chosen.split(max(1, _ENTRIES // entries)):
                y, y_weight = _taps(low[part, 1], size[part, 1], rows, down, height)
                x, x_weight = _taps(low[part, 0], size[part, 0], columns, across, width)
                index = first[part][:, None, None, None, None] + y[:, :, None, :, None] * width + x[:, None, :, None, :]
                weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
                bags = len(part) * rows * columns
                out[part] = F.embedding_bag(
                    index.view(bags, -1), pixels, mode="sum", per_sample_weights=weight.view(bags, -1)
                ).view(len(part), rows * columns, channels)
        return out.transpose(1, 2).reshape(len(rois), channels, rows, columns).to(input.dtype)


def _taps(low: Tensor, size: Tensor, bins: int, samples: int, limit: int) -> tuple[Tensor, Tensor]:
    """The pixels that the bins of each box see along one axis, and their weights: ``(R, bins, samples + 1)`` each.

    Args:
        low: ``(R,)``, where the boxes start, in pixels of the map.
        size: ``(R,)``, their lengths; the samples of a bin lie at most 1 pixel apart.
        bins: per box.
        samples: per bin.
        limit: the map's length.
    """
    step = size / bins
    offset = (torch.arange(samples) + 0.5) / samples
    place = low[:, None, None] + (torch.arange(bins)[:, None] + offset) * step[:, None, None]
    share = ((place >= -1) & (place <= limit)) / samples  # what lies further out counts as 0
    place = place.clamp(min=0.0)
    pixel = place.long().clamp(max=limit - 1)
    start = pixel[..., :1]
    # Samples exactly 1 apart can be rounded down first and up last: the last pixel is one too far then, with weight 0.
    pixel = torch.minimum(pixel, start + samples - 1)
    after = torch.where(pixel < limit - 1, place - pixel, 0.0)
    weight = torch.zeros(*place.shape[:2], samples + 1)
    weight.scatter_add_(2, pixel - start, (1 - after) * share)
    weight.scatter_add_(2, pixel - start + 1, after * share)
    return (start + torch.arange(samples + 1)).clamp(max=limit - 1), weight
