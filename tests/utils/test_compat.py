"""Version quirks: mended where broken, left alone elsewhere."""

import sys
from pathlib import Path

import pytest
import torch
from commands import run
from mmengine.runner.checkpoint import CheckpointLoader
from tiny import FASTER

from rekd_det.testing.tiny_detectors import build_random, tiny_config
from rekd_det.utils import compat

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_importing_registers_everything_and_nothing_must_come_first():
    code = (
        "import rekd_det\n"
        "from mmengine.registry import MODELS, HOOKS\n"
        "import mmrazor.models, mmdet.models\n"
        "names = 'ReKDDistill ReKDDistiller ReKDLoss TISDLoss NTIDLoss KDLoss DKDLoss GDKDLoss PKDLoss'.split()\n"
        "assert all(MODELS.get('mmrazor.' + n) for n in names)\n"
        "assert all(HOOKS.get('mmrazor.' + n) for n in ('DistillWarmupHook', 'PairCheckHook', 'StopDistillHook'))\n"
    )
    run(sys.executable, "-c", code, cwd=ROOT)


def test_an_mmrazor_that_is_already_there_is_kept(monkeypatch):
    original = object()
    monkeypatch.setitem(sys.modules, compat._RAZOR_BACKENDS, original)
    compat._mend_mmrazor_import()
    assert sys.modules[compat._RAZOR_BACKENDS] is original


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
