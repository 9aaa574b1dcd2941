"""Version quirks: mended where broken, left alone elsewhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from tiny import FASTER

from rekd_det.testing.tiny_detectors import build_random, tiny_config
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
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    def mended():
        wide = SingleRoIExtractor.forward, NMSop.forward, BaseDenseHead.predict_by_feat
        return *wide, CheckpointLoader.load_checkpoint.__func__

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


def test_bf16_proposals_are_decoded_in_full_precision():
    model = build_random(tiny_config(FASTER))
    rpn = model.rpn_head
    feats = [torch.randn(1, rpn.in_channels, 4, 2 ** (10 - i)) for i in range(5)]  # priors at x = 4095
    metas = [dict(img_shape=(16, 4096), scale_factor=(1.0, 1.0))]
    with torch.no_grad():
        scores, boxes = ([x.bfloat16() for x in maps] for maps in rpn(feats))
        low = rpn.predict_by_feat(scores, boxes, batch_img_metas=metas, cfg=model.test_cfg.rpn)
        full = ([x.float() for x in maps] for maps in (scores, boxes))
        want = rpn.predict_by_feat(*full, batch_img_metas=metas, cfg=model.test_cfg.rpn)
    assert len(low[0].bboxes) > 10
    assert torch.equal(low[0].bboxes, want[0].bboxes)


@pytest.mark.parametrize("modulated", [False, True], ids=["DCN", "DCNv2"])
def test_deformable_convolutions_take_bf16(modulated):
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    layer = (ModulatedDeformConv2dPack if modulated else DeformConv2dPack)(4, 6, 3, padding=1)
    x = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x.bfloat16())
    got.sum().backward()
    torch.testing.assert_close(got.float(), layer(x.bfloat16().float()), atol=0.05, rtol=0.05)
    assert torch.isfinite(layer.weight.grad).all() and layer.weight.grad.abs().sum() > 0


def test_operators_for_gpus_alone_take_bf16_as_fp32(monkeypatch):
    """The focal loss and deformable attention have no kernels for a CPU; a recorder stands in for them."""
    from mmcv.ops import focal_loss, multi_scale_deform_attn

    seen = []

    def kernel(*args, **kwargs):
        seen.extend(x.dtype for x in args if isinstance(x, torch.Tensor) and x.is_floating_point())
        return torch.zeros(2, 5, 8)

    monkeypatch.setattr(focal_loss.ext_module, "sigmoid_focal_loss_forward", kernel)
    monkeypatch.setattr(multi_scale_deform_attn.ext_module, "ms_deform_attn_forward", kernel)
    logits = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    focal_loss.sigmoid_focal_loss(logits, torch.tensor([0, 1, 2, 3]), 2.0, 0.25, None, "none")
    shapes = torch.tensor([[2, 2]])
    low = dict(dtype=torch.bfloat16)
    multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply(
        torch.randn(2, 4, 2, 4, **low),
        shapes,
        torch.tensor([0]),
        torch.rand(2, 5, 2, 1, 1, 2, **low),
        torch.rand(2, 5, 2, 1, 1, **low),
        64,
    )
    assert len(seen) > 4 and set(seen) == {torch.float32}
