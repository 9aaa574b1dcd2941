"""docs/new_detector.md holds: its blocks are run, from the refusal to a distilled step."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/new_detector.md").read_text()
BLOCKS = dict(re.findall(r"^```python (\S+)\n(.*?)^```$", PAGE, re.M | re.S))
#: builds the pair of the page with weights of its own making, and trains one step
STEP = """
import sys, torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
DefaultScope.get_instance("page", scope_name="mmdet")
cfg = Config.fromfile(sys.argv[1])
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from rekd_det.utils.pair_config import resolve_model_config
teacher = MODELS.build(resolve_model_config(cfg.model.teacher))
torch.save(dict(state_dict=teacher.state_dict()), "teacher.pth")
cfg.merge_from_dict({"model.teacher_ckpt": "teacher.pth"})
model = MODELS.build(cfg.model).train()
data = model.data_preprocessor(demo_mm_inputs(2, [[3, 64, 96]] * 2, num_items=[2, 0], num_classes=80), True)
losses = model(**data, mode="loss")
total, _ = model.parse_losses(losses)
total.backward()
print("LOSSES", *(f"{k}={float(v):.4f}" for k, v in losses.items()))
model.eval()
with torch.no_grad():
    print("DETECTIONS", *(len(p.pred_instances) for p in model(**data, mode="predict")))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files in a folder as a user has them, with the third-party module beside."""
    folder = tmp_path_factory.mktemp("page")
    for name, code in BLOCKS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    shutil.copytree(ROOT / "configs/_base_", folder / "configs/_base_")
    shutil.copy(ROOT / "tests/helpers/third_party_detector.py", folder / "cell_detector.py")
    (folder / "step.py").write_text(STEP)
    return folder


def python(folder: Path, *args: str) -> subprocess.CompletedProcess:
    path = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *args], cwd=folder, env=path, capture_output=True, text=True, check=False)


def lines(code: str) -> int:
    return sum(bool(line.strip()) for line in code.splitlines())


def test_the_page_keeps_its_promises_of_length():
    assert lines(BLOCKS["cell_adapter.py"]) < 40
    assert lines(BLOCKS["configs/rekd_cell_r50_r18_coco.py"]) < 10


@pytest.mark.slow
def test_without_the_adapter_the_pair_is_refused_as_the_page_says(folder):
    config = (folder / "configs/rekd_cell_r50_r18_coco.py").read_text()
    without = folder / "configs/without.py"
    without.write_text(config.replace(', "cell_adapter"', ', "cell_detector"'))
    result = python(folder, "step.py", str(without))
    assert result.returncode != 0
    message = re.search(r"^error: .* can't be built: (.*), \.\.\.$", PAGE, re.M)[1]
    assert message in result.stderr
    assert "docs/new_detector.md" in result.stderr


@pytest.mark.slow
def test_the_pages_lines_let_own_heads_pass(folder):
    code = """
from own_heads import ADAPTERS, MyBBoxHead, MyRetinaHead, RetinaHead, StandardRoIHead
assert ADAPTERS[MyRetinaHead] is ADAPTERS[RetinaHead]
assert MyBBoxHead in ADAPTERS[StandardRoIHead].supported_bbox_heads
"""
    result = python(folder, "-c", code)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_the_check_prints_what_the_page_shows(folder):
    result = python(folder, "check.py")
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r"^Facts\(.*", PAGE, re.M)[0] in result.stdout


@pytest.mark.slow
def test_with_the_adapter_the_pair_trains_and_detects(folder):
    result = python(folder, "step.py", "configs/rekd_cell_r50_r18_coco.py")
    assert result.returncode == 0, result.stderr[-2000:]
    values = dict(re.findall(r"(\S+)=(\S+)", re.search(r"^LOSSES .*", result.stdout, re.M)[0]))
    assert float(values["distill.loss_tisd"]) > 0
    assert float(values["distill.loss_ntid"]) > 0
    assert "loss_bbox" in values
    assert re.search(r"^DETECTIONS \d+ \d+$", result.stdout, re.M)
