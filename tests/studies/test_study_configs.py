"""The detectors of the studies on photographs take a training step, with finite losses, and detect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope

from studies.runner.trainer import curve

CONFIGS = Path(__file__).resolve().parents[2] / "studies" / "configs"


@pytest.mark.parametrize(
    "path", [p for p in sorted(CONFIGS.glob("groceries_*.py")) if not p.stem.endswith("pair")], ids=lambda p: p.stem
)
def test_a_detector_takes_a_step(path):
    torch.manual_seed(0)
    init_default_scope("mmdet")
    detector = MODELS.build(Config.fromfile(path).model)
    detector.init_weights()
    data = demo_mm_inputs(2, [[3, 128, 128]] * 2, num_items=[2, 3], num_classes=25)
    batch = detector.data_preprocessor(data, True)
    total, logged = detector.parse_losses(detector.loss(batch["inputs"], batch["data_samples"]))
    total.backward()
    assert torch.isfinite(total) and len(logged) > 2
    assert all(p.grad is not None for p in detector.backbone.parameters() if p.requires_grad)
    detector.eval()
    with torch.no_grad():
        found = detector.predict(batch["inputs"], batch["data_samples"])
    assert len(found) == 2


def test_a_curve_is_read_over_interruptions(tmp_path):
    lines = {
        "20260101_000000": [("coco/bbox_mAP", 0.1, 2), ("loss", 3.0, 3)],
        "20260102_000000": [("coco/bbox_mAP", 0.2, 4)],
    }
    for name, entries in lines.items():
        (tmp_path / name / "vis_data").mkdir(parents=True)
        text = "".join(json.dumps({key: value, "step": step}) + "\n" for key, value, step in entries)
        (tmp_path / name / "vis_data/scalars.json").write_text(text + '{"coco/bbox')
    assert curve(tmp_path) == {"2": 0.1, "4": 0.2}


def test_a_classifiers_curve_is_its_accuracy(tmp_path):
    (tmp_path / "20260101_000000/vis_data").mkdir(parents=True)
    entries = [{"loss": 3.0, "step": 1}, {"accuracy/top1": 25.0, "accuracy/top5": 60.0, "step": 2}]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (tmp_path / "20260101_000000/vis_data/scalars.json").write_text(text)
    assert curve(tmp_path) == {"2": 0.25}
