"""FasterCocoMetric gives what pycocotools gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results

from rekd_det import evaluation
from rekd_det.evaluation import faster_coco_metric
from rekd_det.evaluation.faster_coco_metric import FasterCocoMetric
from rekd_det.utils.errors import InputError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_real" / "annotations" / "instances_val2017.json"
CLASSES = ("a", "b", "c", "d")


def write_annotations(path: Path, rng: np.random.Generator, images: int = 30) -> Path:
    """Random boxes of all sizes, some of them crowds, each with its rectangle as mask."""
    annotations = []
    for image in range(images):
        for _ in range(rng.integers(0, 12)):
            x, y = rng.uniform(0, 300, 2)
            w, h = rng.choice([8, 30, 60, 150], 2) * rng.uniform(0.6, 1.3, 2)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=int(rng.integers(1, 5)),
                    bbox=[x, y, w, h],
                    area=w * h * rng.uniform(0.5, 1),
                    iscrowd=int(rng.random() < 0.1),
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
    content = dict(
        images=[dict(id=i, width=512, height=512, file_name=f"{i}.jpg") for i in range(images)],
        annotations=annotations,
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )
    path.write_text(json.dumps(content))
    return path


def predictions(ann_file: Path, rng: np.random.Generator, num: int, masks: bool) -> list[dict]:
    """Per image: its own boxes, moved and with some classes wrong, and random ones up to ``num``; many equal scores."""
    content = json.loads(ann_file.read_text())
    ids = [c["id"] for c in content["categories"]]
    own: dict[int, list] = {image["id"]: [] for image in content["images"]}
    for ann in content["annotations"]:
        own[ann["image_id"]].append(([*ann["bbox"]], ids.index(ann["category_id"])))
    samples = []
    for image in content["images"]:
        boxes, labels = [], []
        for box, label in own[image["id"]]:
            boxes.append(np.array(box) * rng.normal(1, 0.05, 4))
            labels.append(label if rng.random() < 0.8 else rng.integers(len(ids)))
        while len(boxes) < num:
            boxes.append(np.concatenate([rng.uniform(0, 250, 2), rng.uniform(5, 120, 2)]))
            labels.append(rng.integers(len(ids)))
        xywh = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        instances = dict(
            bboxes=torch.tensor(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)),
            scores=torch.tensor(rng.random(len(labels)).round(2)),
            labels=torch.tensor(np.array(labels, dtype=np.int64)),
        )
        if masks:
            shape = image["height"], image["width"]
            drawn = []
            for x1, y1, x2, y2 in instances["bboxes"].int().clamp(min=0).tolist():
                mask = np.zeros(shape, bool)
                mask[y1:y2, x1:x2] = True
                drawn.append(mask)
            instances["masks"] = encode_mask_results(drawn)
        samples.append(dict(img_id=image["id"], ori_shape=(image["height"], image["width"]), pred_instances=instances))
    return samples


def evaluate(cls: type, ann_file: Path, classes: tuple, samples: list[dict], **options) -> dict:
    metric = cls(ann_file=str(ann_file), **options)
    metric.dataset_meta = dict(classes=classes)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def assert_same(ann_file: Path, classes: tuple, samples: list[dict], **options) -> None:
    theirs = evaluate(CocoMetric, ann_file, classes, samples, **options)
    ours = evaluate(FasterCocoMetric, ann_file, classes, samples, **options)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("num", [0, 20, 130])  # 130: more than the 100 that the first AP looks at
@pytest.mark.parametrize("seed", range(3))
def test_boxes_of_generated_data(tmp_path, num, seed):
    rng = np.random.default_rng(seed)
    ann_file = write_annotations(tmp_path / "ann.json", rng)
    assert_same(ann_file, CLASSES, predictions(ann_file, rng, num, masks=False), classwise=True)


def test_masks_of_generated_data(tmp_path):
    rng = np.random.default_rng(0)
    ann_file = write_annotations(tmp_path / "ann.json", rng, images=8)
    assert_same(ann_file, CLASSES, predictions(ann_file, rng, 15, masks=True), metric=["bbox", "segm"])


@pytest.mark.parametrize(
    "options",
    [
        dict(proposal_nums=(1, 10, 100)),
        dict(proposal_nums=(10, 50, 200)),
        dict(metric="proposal"),
        dict(iou_thrs=np.array([0.5, 0.75]), metric_items=["mAP", "mAP_50"]),
    ],
    ids=str,
)
def test_options_mean_the_same(tmp_path, options):
    rng = np.random.default_rng(5)
    ann_file = write_annotations(tmp_path / "ann.json", rng)
    assert_same(ann_file, CLASSES, predictions(ann_file, rng, 20, masks=False), **options)


def test_thresholds_may_be_a_list(tmp_path):
    # pycocotools and mmdet's CocoMetric need an array from NumPy 2.1 on.
    rng = np.random.default_rng(5)
    ann_file = write_annotations(tmp_path / "ann.json", rng)
    samples = predictions(ann_file, rng, 20, masks=False)
    listed, array = (
        evaluate(FasterCocoMetric, ann_file, CLASSES, samples, iou_thrs=iou_thrs, metric_items=["mAP_50"])
        for iou_thrs in ([0.5, 0.75], np.array([0.5, 0.75]))
    )
    assert listed == array


def test_without_any_detection_there_is_no_metric(tmp_path):
    rng = np.random.default_rng(0)
    ann_file = write_annotations(tmp_path / "ann.json", rng, images=2)
    empty = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
    samples = [dict(img_id=i, ori_shape=(512, 512), pred_instances=empty) for i in range(2)]
    assert_same(ann_file, CLASSES, samples)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not REAL.exists(), reason="needs the real COCO images beside the repository")
def test_real_annotations():
    content = json.loads(REAL.read_text())
    classes = tuple(c["name"] for c in content["categories"])
    samples = predictions(REAL, np.random.default_rng(0), 40, masks=True)
    assert_same(REAL, classes, samples, metric=["bbox", "segm"], classwise=True)


def test_nothing_of_mmdet_is_changed(tmp_path):
    from mmdet.datasets.api_wrappers import COCO
    from mmdet.evaluation.metrics import coco_metric

    ann_file = write_annotations(tmp_path / "ann.json", np.random.default_rng(0), images=2)
    FasterCocoMetric(ann_file=str(ann_file))
    assert coco_metric.COCO is COCO
    assert isinstance(CocoMetric(ann_file=str(ann_file))._coco_api, COCO)


def test_found_by_its_name_in_mmdets_scope(tmp_path):
    ann_file = write_annotations(tmp_path / "ann.json", np.random.default_rng(0), images=2)
    for name in ("FasterCocoMetric", "mmdet.FasterCocoMetric"):
        assert type(METRICS.build(dict(type=name, ann_file=str(ann_file)))) is evaluation.FasterCocoMetric


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(faster_coco_metric, "_INSTALLED", False)
    with pytest.raises(
        InputError, match=r"faster-coco-eval, which is not installed: run `pip install rekd_det\[eval\]"
    ):
        METRICS.build(dict(type=FasterCocoMetric))
    with pytest.raises(InputError, match="use_mp_eval"):
        monkeypatch.setattr(faster_coco_metric, "_INSTALLED", True)
        METRICS.build(dict(type=FasterCocoMetric, use_mp_eval=True))
