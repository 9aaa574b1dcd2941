"""RoI features of a frozen teacher on a CPU: mmcv's values, from another sum."""

import copy

import pytest
import torch
from mmcv.ops import RoIAlign
from tiny import batch, build, build_pair, perturb, tiny_rcnn
from torch import nn

from rekd_det.models.teachers.roi_gather import GatherRoIAlign, can_gather


def boxes(count: int, scale: float) -> torch.Tensor:
    """RoIs of two images of 25 x 31 map pixels: inside, across the border, far outside, empty, and all of it."""
    generator = torch.Generator().manual_seed(0)
    image = torch.tensor([31.0, 25.0]) / scale
    side = torch.rand(count, 2, generator=generator) * torch.rand(count, 1, generator=generator) * image
    centre = (torch.rand(count, 2, generator=generator) * 1.6 - 0.3) * image
    rois = torch.cat([(torch.arange(count) % 2)[:, None].float(), centre - side / 2, centre + side / 2], 1)
    rois[0, 1:] = torch.tensor([5.0, 5.0, 5.0, 5.0])
    rois[1, 1:] = torch.tensor([0.0, 0.0, *image])
    rois[2, 1:] = torch.tensor([-9.0, -9.0, -3.0, -3.0]) * 8 / scale
    rois[3, 1:] = torch.tensor([*image, *image]) * torch.tensor([0.5, 0.5, 1.0, 1.0])
    return rois


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1 / 4, 1 / 32])
@pytest.mark.parametrize("size", [7, (3, 5)])
def test_it_is_roi_align(aligned, scale, size):
    features = torch.randn(2, 6, 25, 31, generator=torch.Generator().manual_seed(1))
    plain = RoIAlign(size, scale, 0, "avg", aligned)
    rois = boxes(300, scale)
    want = plain(features, rois)
    gather = GatherRoIAlign(plain)
    assert gather.output_size == plain.output_size
    assert (want.flatten(1).abs().amax(1) == 0).any() and (want.flatten(1).abs().amax(1) > 1).any()
    torch.testing.assert_close(gather(features, rois), want, atol=3e-5, rtol=1e-5)
    strided = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(gather(strided, rois), gather(features, rois))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", [7, 14])
def test_bins_of_whole_pixels(aligned, size):
    # 13 or 26 samples in a bin, exactly 1 apart: the first one is rounded below its pixel, the last one is not.
    features = torch.randn(1, 2, 40, 400, generator=torch.Generator().manual_seed(1))
    starts = torch.arange(0.0, 40.0)
    rois = torch.stack([0 * starts, starts, 0 * starts + 10, starts + 4 * 13 * 7, 0 * starts + 40], 1)
    plain = RoIAlign(size, 1 / 4, 0, "avg", aligned)
    torch.testing.assert_close(GatherRoIAlign(plain)(features, rois), plain(features, rois), atol=3e-5, rtol=1e-5)


def test_no_rois():
    plain = RoIAlign(7, 0.25, 0, "avg", True)
    assert GatherRoIAlign(plain)(torch.randn(2, 6, 5, 5), torch.zeros(0, 5)).shape == (0, 6, 7, 7)


def test_many_rois_pass_in_parts(monkeypatch):
    features, rois = torch.randn(2, 6, 25, 31), boxes(200, 1.0)
    gather = GatherRoIAlign(RoIAlign(7, 1.0, 0, "avg", True))
    whole = gather(features, rois)
    monkeypatch.setattr("rekd_det.models.teachers.roi_gather._ENTRIES", 1)
    assert torch.equal(gather(features, rois), whole)


def test_half_precision_comes_back_as_it_came():
    features, rois = torch.randn(2, 6, 25, 31).bfloat16(), boxes(50, 1.0)
    gather = GatherRoIAlign(RoIAlign(7, 1.0, 0, "avg", True))
    assert torch.equal(gather(features, rois), gather(features.float(), rois).bfloat16())


@pytest.mark.parametrize(
    "module",
    [RoIAlign(7, 0.25, 2, "avg", True), RoIAlign(7, 0.25, 0, "max", True), nn.AdaptiveAvgPool2d(7)],
)
def test_other_pooling_is_left_alone(module):
    assert not can_gather(module)


@pytest.mark.parametrize("extra", [{}, dict(teacher_channels_last=True, teacher_fuse_bn=True)])
def test_a_teacher_that_gathers(extra):
    teacher = perturb(build(tiny_rcnn(), seed=5))
    rows = []
    for options in ({}, dict(teacher_roi_gather=True, **extra)):
        model = build_pair(tiny_rcnn(), teacher=copy.deepcopy(teacher), **options)
        data = batch(model)
        with model.distiller.step():
            feats = model.distiller.extract_teacher_feat(model.teacher, data["inputs"])
            torch.manual_seed(0)
            model.student(**copy.deepcopy(data), mode="loss")
            (entry,) = model.distiller.adapter.align(feats, data["data_samples"])
        rows.append(entry.teacher)
    kinds = {type(m) for m in model.teacher.modules() if isinstance(m, RoIAlign)}
    assert kinds == {GatherRoIAlign}
    assert {type(m) for m in model.student.modules() if isinstance(m, RoIAlign)} == {RoIAlign}
    assert 0 < (rows[0] - rows[1]).abs().max() <= 1e-4 * rows[0].abs().max()


def test_without_roi_align_it_is_refused():
    class Dense(nn.Module):
        pass

    from rekd_det.models.teachers.lean import LeanOptions, make_lean

    with pytest.raises(ValueError, match=r"model\.teacher_roi_gather: the teacher has no RoIAlign"):
        make_lean(Dense(), LeanOptions(roi_gather=True))
