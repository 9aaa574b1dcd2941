"""Pre-trains a detector's backbone on its data's objects: what ImageNet's weights are to a detector of full size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmengine.model import BaseModel
from mmrazor.registry import MODELS as RAZOR_MODELS
from torch import Tensor, nn


@RAZOR_MODELS.register_module()
class CropClassifier(BaseModel):
    """Classifies the annotated objects of a detection data set, each cut out of its image.

    A backbone that starts from random weights needs most of a short detection training to learn what objects look like.
    Whole crops of ``size x size`` pixels teach it that at a fraction of the price, and no head learns anything.

    Args:
        backbone: config of the backbone to train.
        num_classes: C.
        size: side of a crop, in pixels.
        margin: a crop shows this much more than the object's box on each side, in parts of the box's size.
        jitter: standard deviation of the crop's borders in training, in parts of the box's size: proposals do not fit
            tightly either.
        data_preprocessor: mmdet's, as in the detector.
        init_cfg: mmengine's.

    The checkpoint holds the backbone under ``backbone.``, for ``init_cfg=dict(type='Pretrained', prefix='backbone')``.
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int,
        size: int = 48,
        margin: float = 0.15,
        jitter: float = 0.06,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.fc = nn.LazyLinear(num_classes)
        self.size, self.margin, self.jitter = size, margin, jitter
        with torch.no_grad():
            self.eval()
            self._logits(torch.zeros(1, 3, size, size))
            self.train()

    def forward(self, inputs: Tensor, data_samples: list, mode: str = "loss") -> Any:
        """``loss``: ``loss_cls`` and ``acc`` (per cent) over all objects of the batch.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            data_samples: mmdet's, with ``gt_instances``.
            mode: 'loss'; nothing else is needed of it.
        """
        if mode != "loss":
            raise NotImplementedError("CropClassifier only trains a backbone; test the detector that gets it")
        boxes = [get_box_tensor(sample.gt_instances.bboxes) for sample in data_samples]
        labels = torch.cat([sample.gt_instances.labels for sample in data_samples])
        logits = self._logits(self._crops(inputs, boxes))
        return dict(
            loss_cls=F.cross_entropy(logits, labels), acc=100 * (logits.argmax(1) == labels).float().mean().detach()
        )

    def _crops(self, images: Tensor, boxes: list[Tensor]) -> Tensor:
        rois = torch.cat([F.pad(of_image, (1, 0), value=i) for i, of_image in enumerate(boxes)])
        side = (rois[:, 3:] - rois[:, 1:3]).repeat(1, 2)
        outwards = side.new_tensor([-1.0, -1.0, 1.0, 1.0]) * self.margin
        rois[:, 1:] += side * (outwards + self.jitter * torch.randn_like(side))
        return roi_align(images, rois, self.size, 1.0, 2, "avg", True)

    def _logits(self, crops: Tensor) -> Tensor:
        return self.fc(self.backbone(crops)[-1].mean((2, 3)))
