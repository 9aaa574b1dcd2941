"""Any detector of MMDetection's zoo at a tiny size, to check on a CPU in seconds what its head does.

The classes of the detector stay the zoo's own. What shrinks is what no head depends on: the backbone, the width of
fully connected layers, the number of proposals, queries and layers.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.config_types import type_class, type_name
from rekd_det.utils.fixed_layers import fix_norms_and_dropout
from rekd_det.utils.generated_data import generated_data
from rekd_det.utils.pair_config import resolve_model_config
from rekd_det.utils.pretrained import drop_pretrained

#: base channels of the ResNet that replaces other backbones
WIDTH = 8

#: largest values of options that only cost time, wherever a config has them
_AT_MOST = dict(
    fc_out_channels=32,
    stacked_convs=2,
    num_proposals=20,
    num_queries=20,
    nms_pre=200,
    max_per_img=40,
    dn_num_groups=2,
    num_dn_queries=10,
)


def tiny_config(cfg_path: str, **backbone: Any) -> ConfigDict:
    """A detector config of the zoo, shrunk, without pretrained weights and without synchronised norms.

    Args:
        cfg_path: a config of an installed package (``'mmdet::gfl/gfl_r50_fpn_1x_coco.py'``) or a file.
        **backbone: options of the backbone to set last, e.g. ``base_channels=16`` for a wider teacher.

    Returns:
        The model config, ready for :func:`build_random`.
    """
    return shrink(resolve_model_config(cfg_path), **backbone)


def shrink(config: Mapping, **backbone: Any) -> ConfigDict:
    """Shrink a model config as :func:`tiny_config` does. The argument is not changed."""
    model = ConfigDict(copy.deepcopy(dict(config)))
    drop_pretrained(model)
    for node in config_nodes(model):
        for key, limit in _AT_MOST.items():
            if isinstance(node.get(key), int):
                node[key] = min(node[key], limit)
        kind = type_name(node.get("type"))
        if kind in ("SyncBN", "MMSyncBN", "SyncBatchNorm"):
            node["type"] = "BN"
        if kind in ("GN", "GroupNorm"):  # a neck behind the small backbone has blocks of 4 channels
            node["num_groups"] = min(node["num_groups"], 4)
        if "use_torchvision" in node:  # mmcv's own RoIAlign needs nothing else
            node["use_torchvision"] = False
        if "batch_augments" in node:  # pads to the full training size
            node["batch_augments"] = None
        if isinstance(node.get("sampler"), dict) and "num" in node["sampler"]:
            node["sampler"]["num"] = min(node["sampler"]["num"], 24)
    for name in ("encoder", "decoder"):
        if isinstance(model.get(name), Mapping) and "num_layers" in model[name]:
            model[name]["num_layers"] = min(model[name]["num_layers"], 2)
    relay = model.get("roi_head", {}).get("feat_relay_head")  # SCNet's hangs on a fully connected layer
    if relay:
        relay["in_channels"] = min(relay["in_channels"], _AT_MOST["fc_out_channels"])
    _shrink_teacher_inside(model)
    _shrink_backbone(model, backbone)
    return model


def build_random(config: Mapping, seed: int = 0) -> nn.Module:
    """Build a detector with random weights that depend on ``seed`` alone; in training mode."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(copy.deepcopy(config))
        with redirect_stdout(io.StringIO()):  # mmengine prints a paragraph per parameter
            model.init_weights()
    for module in model.modules():
        if type(module).__name__ == "TridentConv":  # mmdet leaves its weights to the checkpoint
            nn.init.kaiming_normal_(module.weight)
    model.train()  # returns nothing in some of mmdet's classes
    return model


def tiny_batch(model: Any, size: tuple[int, int] = (96, 128), images: int = 2, objects: int = 3) -> dict:
    """A preprocessed training batch of noise, the same at each call.

    It has boxes, a semantic map and, if the detector needs them, masks.

    Args:
        model: the detector whose preprocessor is used.
        size: height and width in pixels.
        images: images in the batch.
        objects: objects per image.

    Returns:
        ``dict(inputs=(B, 3, H, W), data_samples=[...])`` for ``model(**batch, mode='loss')``.
    """
    classes = min(num_classes(model), 6)
    data = generated_data(model, classes, size, images, objects, with_semantic=True)
    generator = torch.Generator().manual_seed(0)
    data["inputs"] = [torch.randint(0, 256, i.shape, generator=generator, dtype=torch.uint8) for i in data["inputs"]]
    return model.data_preprocessor(data, True)


def settle(model: Any, inputs: torch.Tensor) -> Any:
    """Make a detector compute the same as its copy in eval mode, with activations of a usual size.

    Backbone and neck norms take their statistics from ``inputs`` ``(B, 3, H, W)``; then norms and dropout are put in
    eval mode, and the rest of the detector stays in training mode.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [n.momentum for n in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model.extract_feat(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    fix_norms_and_dropout(model)
    return model


def self_pair(config: Mapping, size: tuple[int, int] = (96, 128)) -> Any:
    """A student and a teacher that is its exact copy, in a distillation algorithm.

    Args:
        config: a shrunk detector config.
        size: height and width, in pixels, of the images from which norms take their statistics.
    """
    student = build_random(config)
    settle(student, tiny_batch(student, size)["inputs"])
    return pair_of(student, copy.deepcopy(student))


def pair_of(student: nn.Module, teacher: nn.Module, loss: Mapping | None = None, **options: Any) -> Any:
    """A distillation algorithm around two built detectors; ``options`` are the distiller's."""
    distiller = dict(type="mmrazor.ReKDDistiller", loss=loss or dict(type="mmrazor.ReKDLoss", top_k=1), **options)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(
            dict(type="mmrazor.ReKDDistill", architecture=student, teacher=teacher, distiller=distiller)
        )


def num_classes(model: nn.Module) -> int:
    """The smallest ``num_classes`` of the parts of a detector that have one > 1; 1 if there is none."""
    found = (getattr(m, "num_classes", None) for m in model.modules())
    return min((n for n in found if isinstance(n, int) and n > 1), default=1)


def _shrink_teacher_inside(model: ConfigDict) -> None:
    """LD and LAD carry a teacher of their own."""
    inner = model.get("teacher_config")
    if isinstance(inner, str):
        path = inner.removeprefix("configs/")
        model["teacher_config"] = dict(model=tiny_config(f"mmdet::{path}"))
    if "teacher_backbone" in model:
        part = ConfigDict(backbone=model.teacher_backbone, neck=model.teacher_neck)
        _shrink_backbone(part, {})
        model.update(teacher_backbone=part.backbone, teacher_neck=part.neck)
    if "teacher_ckpt" in model:
        model["teacher_ckpt"] = None


def _shrink_backbone(model: ConfigDict, options: Mapping) -> None:
    kind = type_name(model.backbone.type)
    own = not getattr(type_class(model.backbone.type, MODELS), "__module__", "").startswith("mm")
    # A C4 head is the backbone's last stage.
    if own or kind in _KEPT_BACKBONES or "shared_head" in model.get("roi_head", {}):
        return
    _BACKBONES.get(kind, _to_small_resnet)(model)
    model.backbone.update(options)
    if "panoptic_head" in model:  # takes the backbone's maps itself
        model.panoptic_head.in_channels = _out_channels(model.backbone)
    if isinstance(model.get("neck"), (Mapping, list)):
        first = model.neck[0] if isinstance(model.neck, list) else model.neck
        channels = _out_channels(model.backbone)
        if model.backbone.get("output_img"):  # DetectoRS hands the image on as well
            channels = channels[1:]
        if isinstance(first.get("in_channels"), (list, tuple)):
            first["in_channels"] = channels
        elif "in_channel" in first:  # CenterNet's neck
            first["in_channel"] = channels[-1]
        elif "in_channels" in first:
            first["in_channels"] = channels[-1]


def _out_channels(backbone: Mapping) -> list[int]:
    with DefaultScope.overwrite_default_scope("mmdet"):
        net = MODELS.build(copy.deepcopy(backbone))
    net.eval()
    with torch.no_grad():
        maps = net(torch.zeros(1, 3, 128, 128))
    return [int(x.shape[1]) for x in ([maps] if isinstance(maps, torch.Tensor) else maps)]


def _to_small_resnet(model: ConfigDict) -> None:
    """Put a narrow ResNet-18 that gives as many levels in the place of any backbone."""
    old = model.backbone
    levels = old.get("out_indices", (0, 1, 2, 3))
    levels = [levels] if isinstance(levels, int) else list(levels)
    indices = tuple(range(4 - len(levels), 4)) if max(levels) > 3 else tuple(levels)
    model.backbone = ConfigDict(
        type="ResNet", depth=18, base_channels=WIDTH, num_stages=max(indices) + 1, out_indices=indices, norm_eval=False
    )


def _narrow_detectors(model: ConfigDict) -> None:
    """Keep DetectoRS's backbone and the one in its neck, with few channels."""
    model.backbone.update(base_channels=WIDTH, norm_eval=False)
    if "rfp_backbone" in model.neck:
        model.neck.rfp_backbone.update(base_channels=WIDTH, norm_eval=False)


def _narrow_csp(model: ConfigDict) -> None:
    """YOLOX and RTMDet: backbone, neck and head are sized together."""
    width, channels = 0.125, 32
    model.backbone.update(deepen_factor=0.167, widen_factor=width)
    model.neck.update(in_channels=[32, 64, 128], out_channels=channels, num_csp_blocks=1)
    model.bbox_head.update(in_channels=channels, feat_channels=channels)


def _narrow_hourglass(model: ConfigDict) -> None:
    model.backbone.update(
        downsample_times=3, stage_channels=[16, 16, 16, 16], stage_blocks=[1, 1, 1, 1], feat_channel=32
    )
    model.bbox_head.in_channels = 32


_BACKBONES: dict[str, Callable[[ConfigDict], None]] = dict(
    DetectoRS_ResNet=_narrow_detectors,
    DetectoRS_ResNeXt=_narrow_detectors,
    CSPDarknet=_narrow_csp,
    CSPNeXt=_narrow_csp,
    HourglassNet=_narrow_hourglass,
)
#: backbones whose sizes nothing can change without their head, or that are small already
_KEPT_BACKBONES = ("SSDVGG", "MobileNetV2", "Darknet", "TridentResNet")
