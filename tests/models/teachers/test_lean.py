"""How the frozen teacher is made cheaper: what stays equal, what changes, what is refused."""

import copy

import pytest
import torch
from mmcv.cnn import build_conv_layer
from mmengine.config import ConfigDict
from one_step import run_step
from tiny import batch, build_pair, perturb, tiny_rcnn, total
from torch import nn
from zoo_pairs import zoo_pair

from rekd_det.models.algorithms.rekd_distill import ReKDDistill
from rekd_det.models.teachers.lean import LeanOptions, fold_batch_norms, make_lean
from rekd_det.models.teachers.teacher import freeze
from rekd_det.testing.tiny_detectors import build_random, settle, tiny_config

RETINA = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"


def lively(model):
    """Give batch norms statistics and affine weights other than those they start with."""
    generator = torch.Generator().manual_seed(3)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(torch.randn(m.num_features, generator=generator) * 0.2)
            m.running_var.copy_(torch.rand(m.num_features, generator=generator) + 0.5)
            m.weight.data.copy_(torch.rand(m.num_features, generator=generator) + 0.5)
            m.bias.data.copy_(torch.randn(m.num_features, generator=generator) * 0.2)
    return model


@pytest.fixture(scope="module", params=["faster_rcnn", "retinanet"])
def family(request):
    """A tiny config and a teacher of it with an opinion of its own."""
    if request.param == "retinanet":
        config = tiny_config(RETINA)
        return config, lively(perturb(build_random(config, seed=5)))
    return tiny_rcnn(), lively(perturb(build_random(tiny_rcnn(), seed=5)))


def step_of(family, **options):
    """The algorithm, and one step of it: the same student, batch and sampling for any options."""
    config, teacher = family
    model = build_pair(config, teacher=copy.deepcopy(teacher), **options)
    data = batch(model)
    torch.manual_seed(0)
    return model, run_step(model, data)


def teacher_rows(step):
    return torch.cat([r.teacher.float() for r in step.rows])


def assert_same_student(step, plain):
    for name in (k for k in plain.losses if "loss" in k and not k.startswith("distill.")):
        assert torch.equal(total({name: step.losses[name]}), total({name: plain.losses[name]})), name


def assert_close(got, want):
    """Equal to 1e-4 of the largest value."""
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize(
    "options",
    [
        dict(teacher_fuse_bn=True),
        dict(teacher_channels_last=True),
        pytest.param(dict(teacher_compile=dict(backend="eager")), marks=pytest.mark.slow),
    ],
)
def test_logits_stay_equal(family, options):
    _, plain = step_of(family)
    model, lean = step_of(family, **options)
    assert_close(teacher_rows(lean), teacher_rows(plain))
    assert_same_student(lean, plain)
    assert not any(p.requires_grad for p in model.teacher.parameters())


@pytest.mark.slow
def test_all_options_at_once_train(family):
    model, step = step_of(
        family,
        teacher_fuse_bn=True,
        teacher_channels_last=True,
        teacher_dtype="bf16",
        teacher_compile=dict(backend="eager"),
    )
    total(step.losses).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(torch.isfinite(p.grad).all() for p in model.architecture.parameters() if p.grad is not None)


def test_every_batch_norm_of_a_resnet_is_folded(family):
    teacher = copy.deepcopy(family[1])
    freeze(teacher)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in teacher.modules())
    assert norms > 15
    assert fold_batch_norms(teacher) == norms
    assert not any(isinstance(m, nn.BatchNorm2d) for m in teacher.modules())


@pytest.mark.slow
def test_bf16_is_for_the_teacher_alone(family):
    _, plain = step_of(family)
    model, lean = step_of(family, teacher_dtype="bf16")
    want, got = teacher_rows(plain), teacher_rows(lean)
    off = ((got - want).abs().max() / want.abs().max()).item()
    assert 1e-5 < off < 0.05, "the precision has no effect, or too much"
    assert_same_student(lean, plain)
    assert all(r.student.dtype == torch.float32 for r in lean.rows)
    assert all(v.dtype == torch.float32 for v in lean.distill.values())
    assert {p.dtype for p in model.architecture.parameters()} == {torch.float32}
    assert {m.weight.dtype for m in model.teacher.modules() if type(m) is nn.Conv2d} == {torch.bfloat16}


def test_mmcv_operators_get_plain_maps(family):
    model, step = step_of(family, teacher_channels_last=True, teacher_dtype="bf16")
    assert step.feats[0].dim() == 4
    if hasattr(model.teacher, "roi_head"):
        assert all(f.is_contiguous() and f.dtype == torch.float32 for f in step.feats)
    else:  # convolutions alone: nothing is copied back
        assert step.feats[0].is_contiguous(memory_format=torch.channels_last)
        assert step.feats[0].dtype == torch.bfloat16


@pytest.mark.slow
def test_checkpoints_and_copies_do_not_know(family):
    plain, _ = step_of(family)
    model, _ = step_of(family, teacher_fuse_bn=True, teacher_dtype="bf16")
    assert model.state_dict().keys() == plain.state_dict().keys()
    twin = copy.deepcopy(model)
    assert twin.teacher is model.teacher
    data = batch(model)
    losses = []
    for m in (model, twin):
        torch.manual_seed(0)
        losses.append(total(m(**copy.deepcopy(data), mode="loss")))
    assert torch.equal(*losses)


def test_the_checkpoint_is_loaded_before_folding(tmp_path):
    config = tiny_rcnn()
    teacher = lively(perturb(build_random(config, seed=5)))
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / "teacher.pth")
    loaded = dict(teacher=config, teacher_ckpt=str(tmp_path / "teacher.pth"))
    model = build_pair(config, **loaded, teacher_fuse_bn=True)
    freeze(teacher)
    x = torch.randn(1, 3, 64, 64)
    for got, want in zip(model.teacher.extract_feat(x), teacher.extract_feat(x), strict=True):
        assert_close(got, want)


class Convs(nn.Module):
    """A detector of a few layers, whose registration order says nothing about who feeds whom."""

    def __init__(self, conv=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 4, 3, padding=1)
        self.norm, self.other_norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 1)
        lively(self)

    def extract_feat(self, x):
        return [self.compute(x)]


class Plain(Convs):
    def compute(self, x):
        return self.last(self.norm(self.conv(x)).relu())


class SharedConv(Convs):
    """One convolution, a norm per level."""

    def compute(self, x):
        return self.last(self.norm(self.conv(x)) + self.other_norm(self.conv(x.flip(3))))


class SharedNorm(Convs):
    def compute(self, x):
        return self.norm(self.last(self.norm(self.conv(x)).relu()))


class NotAdjacent(Convs):
    def compute(self, x):
        return self.last(self.norm(self.conv(x).relu()))


class NormFirst(Convs):
    def compute(self, x):
        return self.norm(self.conv(x).relu()) + self.other_norm(self.last(self.conv(x)))


class AlsoElsewhere(Convs):
    """The output before the norm is used a second time, which folding would change."""

    def compute(self, x):
        y = self.conv(x)
        return self.last(self.norm(y) + y)


@pytest.mark.parametrize(
    ("kind", "folded"), [(Plain, 1), (SharedConv, 0), (SharedNorm, 0), (NotAdjacent, 0), (NormFirst, 1)]
)
def test_only_what_is_exact_is_folded(kind, folded):
    model = kind()
    freeze(model)
    x = torch.randn(2, 3, 16, 16)
    want = model.compute(x)
    assert fold_batch_norms(model) == folded
    assert_close(model.compute(x), want)


def test_a_standardised_convolution_is_left_alone():
    model = Plain(build_conv_layer(dict(type="ConvWS"), 3, 4, 3, padding=1))
    freeze(model)
    assert fold_batch_norms(model) == 0


def test_a_changed_teacher_is_noticed():
    model = AlsoElsewhere()
    freeze(model)
    with pytest.raises(RuntimeError, match=r"model\.teacher_fuse_bn.*level 0 changes by .*leave these options out"):
        make_lean(model, LeanOptions(fuse_bn=True))


@pytest.fixture(scope="module")
def deformable():
    """The config of a teacher whose backbone has deformable convolutions."""
    config = ConfigDict(tiny_rcnn())
    config.backbone.update(depth=50, dcn=dict(type="DCN", deform_groups=1), stage_with_dcn=(False, True, True, True))
    config.neck.in_channels = [64, 128, 256, 512]
    return config


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mmcv_operators_work_in_fp32(deformable, dtype):
    # Random offsets would turn the smallest change into a large one; settled norms and untrained offsets do not.
    teacher = settle(build_random(deformable), torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    _, plain = step_of((tiny_rcnn(), teacher))
    model, lean = step_of((tiny_rcnn(), teacher), teacher_dtype=dtype)
    op = model.teacher.backbone.layer2[0].conv2
    assert {p.dtype for p in op.parameters()} == {torch.float32}  # the convolution that gives the offsets too
    want, got = teacher_rows(plain), teacher_rows(lean)
    assert 0 < (got - want).abs().max() < 0.05 * want.abs().max()


def test_deformable_convolutions_refuse_channels_last(deformable):
    with pytest.raises(ValueError, match=r"model\.teacher_channels_last: the teacher's backbone has operators of mmcv"):
        build_pair(tiny_rcnn(), teacher=build_random(deformable), teacher_channels_last=True)


HEADS = [
    "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
    "yolox/yolox_tiny_8xb8-300e_coco.py",
    "rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "vfnet/vfnet_r50_fpn_1x_coco.py",
    "tood/tood_r50_fpn_1x_coco.py",
    "detr/detr_r50_8xb2-150e_coco.py",
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "centernet/centernet_r18_8xb16-crop512-140e_coco.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_other_heads(name):
    model, data = zoo_pair(name, (128, 128))

    def rows_of(algorithm):
        torch.manual_seed(0)  # the same RoIs are sampled
        return teacher_rows(run_step(algorithm, data))

    want = rows_of(model)
    cheaper = dict(teacher_fuse_bn=True, teacher_channels_last=True)
    for options, tolerance in (
        (cheaper, 1e-4),
        (dict(teacher_dtype="fp16"), 0.02),
        (dict(cheaper, teacher_dtype="bf16"), 0.1),
    ):
        teacher = copy.deepcopy(model.teacher)
        distiller = dict(type="mmrazor.ReKDDistiller", loss=dict(type="mmrazor.ReKDLoss", top_k=1))
        lean = ReKDDistill(architecture=model.architecture, teacher=teacher, distiller=distiller, **options)
        got = rows_of(lean)
        assert (got - want).abs().max() <= tolerance * want.abs().max(), options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (dict(teacher_dtype="int8"), "model.teacher_dtype must be one of bf16, fp16, or None .*'int8'"),
        (dict(teacher_dtype=torch.bfloat16), "model.teacher_dtype must be one of .*torch.bfloat16"),
        (dict(teacher_fuse_bn="yes"), "model.teacher_fuse_bn must be True or False, got 'yes'"),
        (dict(teacher_channels_last=1), "model.teacher_channels_last must be True or False, got 1"),
        (dict(teacher_roi_gather=None), "model.teacher_roi_gather must be True or False, got None"),
        (dict(teacher_compile="max"), "model.teacher_compile must be True, False or a dict .*'max'"),
    ],
)
def test_bad_options_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        build_pair(tiny_rcnn(), **option)


def test_compile_gets_its_arguments(monkeypatch, family):
    seen = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **kwargs: seen.append((self, kwargs)))
    steps = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(1))
    model, _ = step_of(family, teacher_compile=dict(mode="reduce-overhead"))
    assert steps == [1]  # for both parts, which are compiled one by one
    assert [part for part, _ in seen] == [model.teacher.backbone, model.teacher.neck]
    assert all(kwargs == dict(mode="reduce-overhead") for _, kwargs in seen)
