"""Tiny query detectors of each family: zoo configs with two decoder layers, few queries, no dropout.

Dropout is off because a training student draws it and a teacher never does: with it on, no two networks agree.
"""

from mmengine.config import ConfigDict
from tiny import NUM_CLASSES

from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.pair_config import resolve_model_config

FAMILIES = dict(
    detr="mmdet::detr/detr_r50_8xb2-150e_coco.py",
    conditional="mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py",
    dab="mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py",
    deformable="mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    refine="mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py",
    two_stage="mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py",
    dino="mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
    ddq="mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py",
    sparse_rcnn="mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py",
    queryinst="mmdet::queryinst/queryinst_r50_fpn_1x_coco.py",
    maskformer="mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py",
    mask2former="mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
    mask2former_panoptic="mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py",
)
#: families whose teacher decodes the student's queries
SHARED = ("two_stage", "dino", "ddq")
RCNN = ("sparse_rcnn", "queryinst")
MASK = ("maskformer", "mask2former", "mask2former_panoptic")
PANOPTIC = ("maskformer", "mask2former_panoptic")

LAYERS = 2
QUERIES = 10

# MMDetection hard-codes the width of a place's sine embedding in these.
_FULL_WIDTH = ("conditional", "two_stage", "dino")
_WIDTHS = ("embed_dims", "feat_channels", "out_channels", "conv_out_channels", "proposal_feature_channel")


def tiny_query(family: str, queries: int = QUERIES) -> ConfigDict:
    """A zoo config of the family with a narrow ResNet-18, ``queries`` queries and NUM_CLASSES classes."""
    model = resolve_model_config(FAMILIES[family])
    width = 256 if family in _FULL_WIDTH else 32
    _shrink(model, width)
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    channels = [8 * 2**i for i in model.backbone.out_indices]
    if "neck" in model:
        model.neck.in_channels = channels
    if family in MASK:
        _masks(model, family, channels, queries)
    elif family in RCNN:
        _sparse(model, family, width, queries)
    else:
        model.num_queries = queries
        model.bbox_head.update(num_classes=NUM_CLASSES, embed_dims=width)
    if family in ("dino", "ddq"):
        model.dn_cfg.group_cfg.num_dn_queries = 8
    return model


def _shrink(model, width: int) -> None:
    for node, (key, value) in [(n, item) for n in config_nodes(model) for item in n.items()]:
        if key in _WIDTHS and value == 256:
            node[key] = width
        elif key == "num_feats":
            node[key] = width // 2
        elif key == "feedforward_channels":
            node[key] = 32
        elif key == "num_layers":
            node[key] = LAYERS
        elif key in ("dropout", "ffn_drop", "attn_drop", "proj_drop"):
            node[key] = 0.0
        elif key == "num_groups" and value == 32:
            node[key] = 8
        elif key in ("self_attn_cfg", "cross_attn_cfg") and "attn_drop" not in value:
            value.dropout = 0.0  # deformable attention drops by default


def _masks(model: ConfigDict, family: str, channels: list[int], queries: int) -> None:
    things = NUM_CLASSES - 2 if family in PANOPTIC else NUM_CLASSES
    stuff = NUM_CLASSES - things
    model.panoptic_head.update(
        in_channels=channels, num_queries=queries, num_things_classes=things, num_stuff_classes=stuff
    )
    model.panoptic_head.loss_cls.class_weight = [1.0] * NUM_CLASSES + [0.1]
    model.panoptic_fusion_head.update(num_things_classes=things, num_stuff_classes=stuff)
    if "num_points" in model.train_cfg:
        model.train_cfg.num_points = 64
    for augment in model.data_preprocessor.get("batch_augments", []):
        augment.size = (96, 96)


def _sparse(model: ConfigDict, family: str, width: int, queries: int) -> None:
    roi_head = model.roi_head
    model.rpn_head.num_proposals = queries
    roi_head.num_stages = LAYERS
    roi_head.stage_loss_weights = [1.0, 0.5]
    for name in ("bbox_head", "mask_head"):
        if name in roi_head:
            roi_head[name] = roi_head[name][:LAYERS]
    for head in roi_head.bbox_head:
        head.update(num_classes=NUM_CLASSES, in_channels=width)
        head.dynamic_conv_cfg.update(in_channels=width, feat_channels=8, out_channels=width)
    for head in roi_head.get("mask_head", []):
        head.update(num_classes=NUM_CLASSES, in_channels=width, num_convs=1)
        head.dynamic_conv_cfg.update(in_channels=width, feat_channels=8, out_channels=width)
    model.train_cfg.rcnn = model.train_cfg.rcnn[:LAYERS]
