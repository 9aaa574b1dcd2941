"""A small detector of somebody else's: FPN cells, each with a softmax over classes and background, and a box.

It stands for any detector that this package has never seen; docs/new_detector.md distils it.
"""

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS, TASK_UTILS
from torch import Tensor, nn


@MODELS.register_module()
class CellHead(BaseDenseHead):
    """A cell belongs to the smallest object that its center lies in, or to the background (index ``num_classes``)."""

    def __init__(self, num_classes, in_channels, strides, train_cfg=None, test_cfg=None, init_cfg=None) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.cls_out_channels, self.use_sigmoid_cls = num_classes, num_classes + 1, False
        self.strides, self.train_cfg, self.test_cfg = tuple(strides), train_cfg, test_cfg
        self.prior_generator = TASK_UTILS.build(dict(type="MlvlPointGenerator", strides=strides))
        self.bbox_coder = TASK_UTILS.build(dict(type="DistancePointBBoxCoder"))
        self.classify = nn.Conv2d(in_channels, num_classes + 1, 3, padding=1)
        self.regress = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.loss_cls = MODELS.build(dict(type="CrossEntropyLoss"))
        self.loss_bbox = MODELS.build(dict(type="GIoULoss"))

    def forward(self, feats):
        return (
            [self.classify(x) for x in feats],
            [self.regress(x).exp() * s for x, s in zip(feats, self.strides, strict=True)],
        )

    @staticmethod
    def flatten(maps: list[Tensor]) -> Tensor:
        """Maps ``(B, n, h, w)`` per level to ``(N, n)``: image by image, level by level."""
        cells = torch.cat([m.flatten(2) for m in maps], dim=2)
        return cells.transpose(1, 2).flatten(0, 1)

    def loss_by_feat(self, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore=None):
        sizes = [m.shape[-2:] for m in cls_scores]
        points = torch.cat(self.prior_generator.grid_priors(sizes, device=cls_scores[0].device))
        assigned = [self._assign(points, gt) for gt in batch_gt_instances]
        labels, boxes = (torch.cat(x) for x in zip(*assigned, strict=True))
        logits, distances = self.flatten(cls_scores), self.flatten(bbox_preds)
        positive = labels < self.num_classes
        predicted = self.bbox_coder.decode(points.repeat(len(batch_gt_instances), 1)[positive], distances[positive])
        avg_factor = positive.sum().clamp(min=1).float()
        return dict(
            loss_cls=self.loss_cls(logits, labels, avg_factor=avg_factor),
            loss_bbox=self.loss_bbox(predicted, boxes[positive], avg_factor=avg_factor),
        )

    def _assign(self, points: Tensor, gt) -> tuple[Tensor, Tensor]:
        boxes = gt.bboxes.tensor if hasattr(gt.bboxes, "tensor") else gt.bboxes
        background = points.new_full((len(points),), self.num_classes, dtype=torch.long)
        if not len(boxes):
            return background, points.new_zeros(len(points), 4)
        inside = ((points[:, None] > boxes[:, :2]) & (points[:, None] < boxes[:, 2:])).all(2)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1).expand(len(points), -1).masked_fill(~inside, float("inf"))
        smallest, index = area.min(1)
        return gt.labels[index].where(smallest.isfinite(), background), boxes[index]
