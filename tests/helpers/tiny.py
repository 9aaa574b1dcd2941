"""Tiny detectors and batches for the tests: real mmdet classes, few channels, few proposals."""

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict

from rekd_det.testing.tiny_detectors import build_random as build
from rekd_det.utils.pair_config import resolve_model_config

FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
MASK = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
CASCADE = "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
CASCADE_MASK = "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py"
HTC = "mmdet::htc/htc_r50_fpn_1x_coco.py"
DOUBLE = "mmdet::double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py"
DYNAMIC = "mmdet::dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py"

NUM_CLASSES = 6


def tiny_rcnn(cfg_path: str = FASTER, width: int = 16, num_classes: int = NUM_CLASSES) -> ConfigDict:
    """A zoo R-CNN config with a ResNet-18 of ``width`` base channels, 24 sampled RoIs and ``num_classes`` classes."""
    model = resolve_model_config(cfg_path)
    model.backbone.update(depth=18, base_channels=width, init_cfg=None)
    model.neck.in_channels = [width * 2**i for i in range(4)]
    heads = model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.num_classes = num_classes
        if "fc_out_channels" in head:
            head.fc_out_channels = 32
        if head.type == "DoubleConvFCBBoxHead":
            head.update(num_convs=1, conv_out_channels=32)
    masks = model.roi_head.get("mask_head") or []
    for head in masks if isinstance(masks, list) else [masks]:
        head.update(num_classes=num_classes, num_convs=1)
    model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=40)
    model.test_cfg.rpn.update(nms_pre=100, max_per_img=20)
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 24
    return model


def build_pair(config: ConfigDict, loss: dict | None = None, teacher=None, **kwargs) -> torch.nn.Module:
    """ReKDDistill around ``config``; without ``teacher`` the teacher is an exact copy of the student."""
    student = build(config)
    if teacher is None:
        teacher = build(config)
        teacher.load_state_dict(student.state_dict())
    algorithm = dict(
        type="mmrazor.ReKDDistill",
        architecture=student,
        teacher=teacher,
        distiller=dict(type="mmrazor.ReKDDistiller", loss=loss or dict(type="ReKDLoss", top_k=3)),
    )
    return MODELS.build(algorithm | kwargs).train()


def perturb(module: torch.nn.Module, scale: float = 0.05, seed: int = 1) -> torch.nn.Module:
    """Move every parameter a little, so that a copied teacher has an opinion of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale)
    return module


def batch(model: torch.nn.Module, shapes=((3, 64, 96), (3, 96, 64)), num_items=(3, 2), seed: int = 0, **kwargs) -> dict:
    """A preprocessed training batch of random images with ground truth; unequal sizes by default."""
    data = demo_mm_inputs(
        len(shapes), [list(s) for s in shapes], num_items=list(num_items), num_classes=NUM_CLASSES, **kwargs
    )
    generator = torch.Generator().manual_seed(seed)
    data["inputs"] = [torch.randint(0, 256, tuple(s), generator=generator, dtype=torch.uint8) for s in shapes]
    return model.data_preprocessor(data, True)


def total(losses: dict) -> torch.Tensor:
    """The sum that mmengine would minimise."""
    values = [sum(v) if isinstance(v, list) else v for k, v in losses.items() if "loss" in k]
    return torch.stack([v.sum() for v in values]).sum()


def forward_hooks(module: torch.nn.Module) -> int:
    """Number of forward hooks anywhere in a module."""
    return sum(len(m._forward_hooks) for m in module.modules())
