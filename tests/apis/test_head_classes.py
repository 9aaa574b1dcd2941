"""Which numbers of classes pass, and which are refused, in heads of each kind."""

import pytest
from mmengine.config import Config

from rekd_det.apis.class_names import ClassNames
from rekd_det.apis.head_classes import check_class_weights, check_head_classes
from rekd_det.utils.errors import InputError
from rekd_det.utils.read_config import package_config

COCO = ClassNames(range(80), "train_dataloader.dataset.metainfo.classes")
MASK_RCNN = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
HTC = "htc/htc_r50_fpn_1x_coco.py"
POINT_REND = "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py"
SOLO = "solov2/solov2_r50_fpn_1x_coco.py"
MASK2FORMER = "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"


def model_of(config: str, options: dict) -> Config:
    cfg = package_config(f"mmdet::{config}", "config")
    cfg.merge_from_dict({f"model.{key}": value for key, value in options.items()})
    return cfg.model


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (HTC, {}),
        (MASK_RCNN, {"roi_head.mask_head.num_classes": 90}),  # the class is the box's: the last ten are never used
        (MASK_RCNN, {"roi_head.mask_head.num_classes": 1, "roi_head.mask_head.class_agnostic": True}),
        (POINT_REND, {}),
        (SOLO, {}),
        (MASK2FORMER, {}),
    ],
)
def test_heads_that_fit(config, options):
    model = model_of(config, options)
    check_head_classes(model, COCO)
    check_class_weights(model)


@pytest.mark.parametrize(
    ("config", "key", "count"),
    [
        (MASK_RCNN, "roi_head.mask_head.num_classes", 5),
        (HTC, "roi_head.mask_head.1.num_classes", 5),
        (POINT_REND, "roi_head.point_head.num_classes", 90),
        (SOLO, "mask_head.num_classes", 90),
        (MASK2FORMER, "panoptic_head.num_things_classes", 90),
        (MASK2FORMER, "panoptic_fusion_head.num_things_classes", 90),
    ],
)
def test_heads_of_masks_that_do_not_fit(config, key, count):
    pair = dict(architecture=model_of(config, {key: count}), teacher={})
    with pytest.raises(InputError, match=rf"^model\.architecture\.{key}={count}, but .* has 80 classes"):
        check_head_classes(pair, COCO)


def test_weights_of_other_classes():
    model = model_of(MASK2FORMER, {"panoptic_head.num_things_classes": 12})
    with pytest.raises(InputError, match=r"loss_cls.class_weight has 81 weights, .* give 13 weights"):
        check_class_weights(model)
