"""Version quirks: mended where broken, left alone elsewhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from rekd_det.utils import compat

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_importing_registers_everything_and_nothing_must_come_first():
    done = python(
        "import rekd_det\n"
        "from mmengine.registry import MODELS, HOOKS\n"
        "import mmrazor.models, mmdet.models\n"
        "names = 'ReKDDistill ReKDDistiller ReKDLoss TISDLoss NTIDLoss KDLoss DKDLoss GDKDLoss PKDLoss'.split()\n"
        "assert all(MODELS.get('mmrazor.' + n) for n in names)\n"
        "assert all(HOOKS.get('mmrazor.' + n) for n in ('DistillWarmupHook', 'PairCheckHook', 'StopDistillHook'))\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_custom_imports_is_all_a_config_needs(tmp_path):
    (tmp_path / "c.py").write_text(
        "custom_imports = dict(imports=['rekd_det'])\nmodel = dict(type='mmrazor.ReKDDistill')\n"
    )
    done = python(
        "import sys; sys.path.insert(0, '.')\n"
        "from mmengine.config import Config\n"
        f"c = Config.fromfile({str(tmp_path / 'c.py')!r})\n"
        "from mmengine.registry import MODELS\n"
        "assert MODELS.get(c.model.type).__name__ == 'ReKDDistill'\n"
    )
    assert done.returncode == 0, done.stderr


def test_mmrazor_is_left_alone_where_torch_has_the_names_that_it_imports(monkeypatch):
    from torch.ao.quantization import fuser_method_mappings

    monkeypatch.delitem(sys.modules, compat._RAZOR_BACKENDS)
    for name in ("reverse2", "reverse3", "reverse_sequential_wrapper2"):
        monkeypatch.setattr(fuser_method_mappings, name, lambda f: f, raising=False)
    compat._mend_mmrazor_import()
    assert compat._RAZOR_BACKENDS not in sys.modules


def test_an_mmrazor_that_is_already_there_is_kept(monkeypatch):
    original = object()
    monkeypatch.setitem(sys.modules, compat._RAZOR_BACKENDS, original)
    compat._mend_mmrazor_import()
    assert sys.modules[compat._RAZOR_BACKENDS] is original


def test_training_state_loads_with_weights_only(tmp_path):
    history = HistoryBuffer([1.0, np.float32(2.0)], [1, 1])
    state = dict(
        state_dict=dict(w=torch.ones(2)),
        message_hub=dict(log_scalars={"loss": history}, runtime_info=dict(iter=np.int64(3), x=np.float64(0.5))),
        meta=dict(seed=np.int32(1), flags=np.array([True, False]), half=np.float16(0.5)),
    )
    torch.save(state, tmp_path / "a.pth")
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"), "cpu")
    assert loaded["message_hub"]["log_scalars"]["loss"].mean() == 1.5
    assert loaded["meta"]["flags"].tolist() == [True, False]


def test_applying_twice_wraps_nothing_twice():
    from mmcv.ops.nms import NMSop
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    def mended():
        return SingleRoIExtractor.forward, NMSop.forward, CheckpointLoader.load_checkpoint.__func__

    before = mended()
    compat.apply()
    assert mended() == before


def test_bf16_features_are_pooled_with_full_precision_boxes():
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    extractor = SingleRoIExtractor(
        roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0), out_channels=4, featmap_strides=[4]
    )
    feats = (torch.randn(1, 4, 64, 64).bfloat16(),)
    rois = torch.tensor([[0.0, 100.3, 50.7, 201.9, 149.1]])
    assert torch.equal(extractor(feats, rois), extractor((feats[0].float(),), rois))
