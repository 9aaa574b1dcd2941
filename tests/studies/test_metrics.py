"""What a study reads from a test: AP of detectors, accuracy of classifiers, all as shares of 1."""

from mmengine.config import Config

from studies.runner.comparison import compare_arms
from studies.runner.metrics import read_metrics
from studies.runner.report import write_report
from studies.runner.spec import Arm, Study

COCO = Config(dict(test_evaluator=[dict(type="CocoMetric", metric=["bbox", "segm"])]))


def test_metrics_of_detectors_and_classifiers():
    assert read_metrics({"coco/bbox_mAP": 0.25, "coco/bbox_mAP_50": 0.5, "time": 3.0}, COCO) == {
        "bbox_mAP": 0.25,
        "bbox_mAP_50": 0.5,
    }
    accuracy = Config(dict(test_evaluator=dict(type="Accuracy", topk=(1, 5))))
    assert read_metrics({"accuracy/top1": 25.5, "accuracy/top5": 50.0, "time": 3.0}, accuracy) == {
        "top1": 0.255,
        "top5": 0.5,
    }


def test_a_detector_that_found_nothing_has_ap_0():
    assert read_metrics({}, COCO) == {"bbox_mAP": 0.0, "segm_mAP": 0.0}


def test_a_report_of_classifiers_speaks_of_accuracy(tmp_path):
    arms = tuple(Arm(name, tmp_path / "x.py", {}, (0,)) for name in ("student", "rekd"))
    study = Study("cls", None, None, None, "student", (), arms)
    results = [
        dict(arm=arm, seed=0, status="ok", starts=1, wall_s=60.0, metrics=dict(top1=value, top5=2 * value), digest=arm)
        | dict(hardware=dict(cpu="c", cores=2, gpus=[]), device="cpu", versions={}, folder=f"{arm}-seed0-{arm}")
        for arm, value in (("student", 0.2), ("rekd", 0.25))
    ]
    (row,) = [c for c in compare_arms(study, results) if (c.arm, c.metric) == ("rekd", "top1")]
    assert row.difference.mean == 0.25 - 0.2
    text = write_report(study, results, tmp_path).read_text()
    assert "## Top-1 accuracy, in points" in text and "| rekd | 0 | ok | 25.0 | 1.0 |" in text
    assert "AP" not in text
    assert (tmp_path / "image.png").is_file()
