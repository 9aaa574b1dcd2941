"""Study files for tests."""

from __future__ import annotations

import functools
from pathlib import Path

import yaml

from studies.runner.plan import make_plan
from studies.runner.run import Run
from studies.runner.study_file import read_study

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "study.py"
TINY = ROOT / "studies" / "tiny.yml"
STUDENT = str(ROOT / "studies/configs/frcnn_student.py")
TEACHER = str(ROOT / "studies/configs/frcnn_teacher.py")
PAIR = str(ROOT / "studies/configs/frcnn_pair.py")
#: of the tiny study, with its pre-training
ARMS = ("pretrain", "teacher", "student", "rekd_pkd")


def write(folder: Path, **changes) -> Path:
    """A valid study with some keys changed, as a file; a key set to ... is left out."""
    base = dict(name="s", seeds=[0, 1], baseline="alone", arms={"alone": {"config": STUDENT}, "kd": {"config": PAIR}})
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**base, **changes}.items() if v is not ...}, sort_keys=False))
    return path


@functools.cache
def shipped_plan(path: Path) -> list[Run]:
    """Reading all configs of a study takes seconds."""
    return make_plan(read_study(path))


def line(arm: str, seed: int, value: float | None, **changes) -> dict:
    """A line of ``results.jsonl``; without a value, of a run that failed."""
    base = dict(arm=arm, seed=seed, status="ok", starts=1, digest="d", folder="f")
    if value is None:
        return base | dict(status="failed", error="loss_cls is NaN") | changes
    metrics = {"bbox_mAP": value, "bbox_mAP_50": 2 * value, "bbox_mAP_l": -1.0}
    told = dict(wall_s=90.0, device="cpu", hardware=dict(cpu="C", cores=2, gpus=[]), versions=dict(torch="2"))
    return base | dict(metrics=metrics) | told | changes
