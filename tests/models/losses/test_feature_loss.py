"""Feature losses beside the logits: one forward of each network, connectors that train, errors that name the key."""

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.model import MMDistributedDataParallel
from mmrazor.models import MGDConnector, MGDLoss
from mmrazor.registry import MODELS as RAZOR
from tiny import FASTER, batch, build, forward_hooks, perturb, tiny_rcnn, total

from rekd_det.models.losses.feature_loss import FeatureLoss
from rekd_det.testing.tiny_detectors import pair_of
from rekd_det.utils.config_types import type_class
from rekd_det.utils.errors import InputError

PKD = dict(type="mmrazor.PKDLoss", loss_weight=6.0, levels=[0, 1, 2, 3])
#: a loss of each kind, with connectors as its paper has them
LOSSES = dict(
    loss_pkd=PKD,
    loss_cwd=dict(type="ChannelWiseDivergence", tau=1.0, loss_weight=10.0, levels=[0, 1]),
    loss_fbkd=dict(
        type="FBKDLoss",
        levels=[1, 2],
        student_connector=dict(type="FBKDStudentConnector", in_channels=16, sub_sample=True),
        teacher_connector=dict(type="FBKDTeacherConnector", in_channels=16, sub_sample=True),
    ),
    loss_mgd=dict(  # in mmengine's new style
        type=MGDLoss,
        alpha_mgd=1e-3,
        levels=[0, 3],
        student_connector=dict(type=MGDConnector, student_channels=16, teacher_channels=16),
    ),
)


def narrow(channels: int = 16) -> ConfigDict:
    """A tiny Faster R-CNN whose feature pyramid has ``channels`` channels."""
    config = tiny_rcnn(FASTER)
    config.neck.out_channels = channels
    config.rpn_head.update(in_channels=channels, feat_channels=channels)
    config.roi_head.bbox_roi_extractor.out_channels = channels
    config.roi_head.bbox_head.in_channels = channels
    return config


def pair(feature_losses, channels: int = 16, logits: dict | None = None, teacher=None):
    teacher = teacher or perturb(build(narrow(channels)))
    distiller = dict(type="mmrazor.ReKDDistiller", loss=logits, feature_losses=feature_losses)
    algorithm = dict(type="mmrazor.ReKDDistill", architecture=build(narrow()), teacher=teacher, distiller=distiller)
    torch.manual_seed(0)
    return MODELS.build(algorithm).train()


REKD = dict(type="mmrazor.ReKDLoss", top_k=3)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_what_mmrazor_computes_on_the_same_maps(name):
    model = pair({name: LOSSES[name]}, logits=REKD)
    data = batch(model)
    config = {k: v for k, v in LOSSES[name].items() if k not in ("levels", "student_connector", "teacher_connector")}
    by_hand = RAZOR.build(config | dict(type=type_class(config["type"], RAZOR)))
    feature = model.distiller.feature_losses[name]
    student, teacher = model.architecture.extract_feat(data["inputs"]), model.teacher.extract_feat(data["inputs"])
    torch.manual_seed(1)  # MGD masks at random
    losses = model(**data, mode="loss")
    torch.manual_seed(1)
    want = 0.0
    # The student's own losses draw random numbers before MGD does.
    model.architecture.loss(data["inputs"], data["data_samples"])
    for i, level in enumerate(LOSSES[name]["levels"]):
        s, t = student[level], teacher[level]
        if feature.student_connectors:
            s = feature.student_connectors[i](s)
        if feature.teacher_connectors:
            t = feature.teacher_connectors[i](t)
        want = want + by_hand(s, t)
    assert want > 0
    torch.testing.assert_close(losses[f"distill.{name}"], want, rtol=1e-4, atol=1e-6)
    assert {"distill.loss_tisd", "distill.loss_ntid"} <= set(losses)


def test_a_method_that_the_user_has_wrapped_stays_wrapped():
    model = pair({"loss_pkd": PKD}, logits=REKD)
    own = model.student.extract_feat
    model.student.extract_feat = wrapped = lambda *args: own(*args)
    model(**batch(model), mode="loss")
    assert model.student.extract_feat is wrapped
    del model.student.extract_feat
    model(**batch(model), mode="loss")
    assert "extract_feat" not in vars(model.student)


def test_identical_feature_maps_cost_nothing():
    student = build(tiny_rcnn(FASTER))
    model = pair_of(student, copy.deepcopy(student), REKD, feature_losses=dict(loss_pkd=PKD))
    assert model(**batch(model), mode="loss")["distill.loss_pkd"] == 0


@RAZOR.register_module()
class ByHand(torch.nn.Module):
    """A user's own loss, with a result of the kind that is wanted."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, s, t):
        loss = (s - t).square()
        return {
            "vector": lambda: loss.mean((1, 2, 3)),
            "dict": lambda: dict(loss=loss.mean()),
            "detached": lambda: loss.mean().detach(),
            "number": lambda: loss.mean().item(),
            "one": lambda: loss.mean().reshape(1),
        }[self.gives]()


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        ("vector", r"ByHand gives a tensor of shape \(2,\), and a loss is a tensor of one number"),
        ("dict", "ByHand gives dict, and"),
        ("number", "ByHand gives float, and"),
        ("detached", "ByHand gives no gradient to the student"),
        ("one", None),
    ],
)
def test_what_an_own_loss_may_give(gives, message):
    model = pair({"loss_own": dict(type="ByHand", gives=gives, levels=[0])}, logits=REKD)
    if message is None:
        assert model(**batch(model), mode="loss")["distill.loss_own"].shape == ()
        return
    with pytest.raises(InputError, match=f"model.distiller.feature_losses.loss_own: {message}"):
        model(**batch(model), mode="loss")


def test_a_connector_with_too_many_channels_is_named():
    connector = dict(type="ConvModuleConnector", in_channel=16, out_channel=24)
    model = pair({"loss_pkd": dict(PKD, levels=[0], student_connector=connector)})
    with pytest.raises(InputError, match="level 0 has 24 channels on the student's side and 16 on the teacher's"):
        model(**batch(model), mode="loss")


def test_a_student_whose_maps_can_not_be_tapped_is_named(monkeypatch):
    model = pair({"loss_pkd": PKD})
    student = model.student
    data = batch(model)
    monkeypatch.setattr(type(student), "loss", lambda self, x, samples: dict(loss=self.neck(self.backbone(x))[0].sum()))
    with pytest.raises(InputError, match=r"FasterRCNN\.loss does not call extract_feat"):
        model(**data, mode="loss")


def test_connectors_train_are_saved_and_need_no_unused_parameters():
    model = pair(LOSSES, logits=REKD)
    connectors = {k: p for k, p in model.named_parameters() if k.startswith("distiller.")}
    assert len(connectors) > 20
    assert set(connectors) <= set(model.state_dict())
    model.init_weights()
    losses = model(**batch(model), mode="loss")
    total({k: v for k, v in losses.items() if k.startswith("distill.")}).backward()
    assert not [k for k, p in connectors.items() if p.grad is None]
    # Each level has a connector of its own.
    assert len(model.distiller.feature_losses["loss_mgd"].student_connectors) == 2
    weights = [c.generation[0].weight for c in model.distiller.feature_losses["loss_mgd"].student_connectors]
    assert not torch.equal(*weights)


def test_a_stopped_distillation_still_touches_the_connectors():
    model = pair(LOSSES, logits=REKD)
    model.distillation_stopped = True
    losses = model(**batch(model), mode="loss")
    assert losses["distill.loss_fbkd"] == losses["distill.loss_mgd"] == 0
    assert "distill.loss_pkd" not in losses  # it has nothing to train
    total(losses).backward()
    assert all(p.grad is not None for p in model.distiller.parameters())


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_finds_no_unused_parameter_while_distilling_nor_when_stopped(process_group, monkeypatch):
    model = pair(LOSSES, logits=REKD)
    data = batch(model)
    # As mmengine wraps it by default: find_unused_parameters stays False.
    wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    for stopped in (False, False, True, True):  # a step complains of what the one before left unused
        model.distillation_stopped = stopped
        total(wrapped(**data, mode="loss")).backward()
    monkeypatch.setattr(type(model.distiller), "idle_losses", lambda self: {})
    total(wrapped(**data, mode="loss")).backward()
    with pytest.raises(RuntimeError, match=r"unused|not used|reduction"):
        wrapped(**data, mode="loss")


def test_each_network_runs_once_and_nothing_is_left_behind():
    model = pair(dict(loss_pkd=PKD), logits=REKD)
    runs = dict.fromkeys(("student", "teacher"), 0)

    def count(name):
        def hook(*_):
            runs[name] += 1

        return hook

    handles = [
        model.architecture.backbone.register_forward_hook(count("student")),
        model.teacher.backbone.register_forward_hook(count("teacher")),
    ]
    before = forward_hooks(model.architecture)
    model(**batch(model), mode="loss")
    assert runs == dict(student=1, teacher=1)
    assert forward_hooks(model.architecture) == before
    assert "extract_feat" not in vars(model.architecture)
    assert not model.distiller._features.feats
    for handle in handles:
        handle.remove()


def test_features_alone_need_no_adapter_and_change_no_student_loss():
    model = pair(dict(loss_pkd=PKD))
    plain = copy.deepcopy(model.architecture)
    data = batch(model)
    torch.manual_seed(3)
    losses = model(**data, mode="loss")
    torch.manual_seed(3)
    own = plain(**data, mode="loss")
    assert model.distiller.adapter is None
    assert [k for k in losses if k.startswith("distill.")] == ["distill.loss_pkd"]
    for key, value in own.items():
        pairs = zip(value, losses[key], strict=True) if isinstance(value, list) else [(value, losses[key])]
        assert all(torch.equal(a, b) for a, b in pairs), key


def test_autocast_gives_the_losses_fp32_maps():
    model = pair(LOSSES, logits=REKD)
    data = batch(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(**data, mode="loss")
    for name in LOSSES:
        assert losses[f"distill.{name}"].dtype == torch.float32
        assert torch.isfinite(losses[f"distill.{name}"])
    total(losses).backward()


def test_other_widths_meet_through_a_connector():
    connector = dict(type="ConvModuleConnector", in_channel=16, out_channel=24, act_cfg=None)
    model = pair(dict(loss_pkd=PKD | dict(student_connector=connector)), channels=24, logits=REKD)
    assert model(**batch(model), mode="loss")["distill.loss_pkd"] > 0


def test_a_copy_for_ema_taps_its_own_student():
    model = pair(dict(loss_pkd=PKD), logits=REKD)
    twin = copy.deepcopy(model)
    assert twin.distiller._features.student is twin.architecture


WRONG = dict(
    unknown_loss=(dict(loss_x=dict(type="PKDLos")), TypeError, r"feature_losses\.loss_x\.type='PKDLos' is not in"),
    logit_loss=(dict(loss_x=dict(type="ReKDLoss")), TypeError, r"set it as model\.distiller\.loss"),
    other_arguments=(dict(loss_x=dict(type="mmrazor.CRDLoss", neg_num=1, sample_n=9, dim_out=4)), TypeError, "forward"),
    no_type=(dict(loss_x=dict(loss_weight=1)), TypeError, "with a type"),
    type_of_a_type=(dict(loss_x=dict(type=dict(type="PKDLoss"))), TypeError, "is not in MMRazor's registry"),
    name=(dict(pkd=PKD), ValueError, "starts with 'loss'"),
    levels=(dict(loss_x=PKD | dict(levels=[0, 0])), ValueError, r"loss_x\.levels must"),
    negative=(dict(loss_x=PKD | dict(levels=[-1])), ValueError, r"loss_x\.levels must"),
    connector=(
        dict(loss_x=PKD | dict(teacher_connector=dict(type="Nothing"))),
        TypeError,
        r"loss_x\.teacher_connector\.type='Nothing'",
    ),
    connector_without_type=(
        dict(loss_x=PKD | dict(student_connector=dict(in_channel=8, out_channel=8))),
        TypeError,
        r"loss_x\.student_connector must be a config dict with a type, .* got \{'in_channel': 8",
    ),
    one_of_the_connectors_without_type=(
        dict(loss_x=PKD | dict(levels=[0, 1], student_connector=[dict(type="MGDConnector"), {}])),
        TypeError,
        r"loss_x\.student_connector must be a config dict with a type",
    ),
    connector_by_name=(
        dict(loss_x=PKD | dict(teacher_connector="ConvModuleConnector")),
        TypeError,
        r"loss_x\.teacher_connector must be a config dict with a type, .* got 'ConvModuleConnector'",
    ),
    connector_count=(
        dict(loss_x=PKD | dict(student_connector=[dict(type="MGDConnector")])),
        ValueError,
        "1 connectors for 4 levels",
    ),
    connector_without_levels=(
        dict(loss_x=dict(type="PKDLoss", student_connector=dict(type="MGDConnector"))),
        ValueError,
        r"set model\.distiller\.feature_losses\.loss_x\.levels",
    ),
)


@pytest.mark.parametrize(("losses", "error", "message"), WRONG.values(), ids=WRONG)
def test_options_are_refused_before_training(losses, error, message):
    with pytest.raises(error, match=message):
        [FeatureLoss(name, config) for name, config in losses.items()]


def test_no_loss_at_all_is_refused():
    with pytest.raises(TypeError, match=r"model\.distiller\.loss must be a config dict"):
        pair({})


@pytest.mark.parametrize(
    ("config", "channels", "message"),
    [
        (PKD | dict(levels=[0, 5]), 16, r"levels=\[0, 5\] is out of range: .* from 0 to 4"),
        (PKD, 24, r"level 0 has 16 channels in the student and 24 in the teacher\. Add student_connector"),
        (
            PKD | dict(student_connector=dict(type="ConvModuleConnector", in_channel=8, out_channel=24)),
            24,
            "student_connector takes 8 channels, but level 0 of the student has 16",
        ),
    ],
    ids=["level", "channels", "connector"],
)
def test_maps_that_do_not_fit_are_named(config, channels, message):
    model = pair(dict(loss_pkd=config), channels, logits=REKD)
    with pytest.raises(ValueError, match=message):
        model(**batch(model), mode="loss")


def test_different_numbers_of_levels_must_be_named():
    loss = FeatureLoss("loss_pkd", dict(type="PKDLoss"))
    maps = [torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4)]
    with pytest.raises(ValueError, match=r"2 feature levels, the teacher 1; .*levels=\[0\]"):
        loss(maps, maps[:1])


def test_maps_of_several_copies_of_an_image_have_no_counterpart():
    """TridentNet's three branches; some losses would broadcast the teacher's one map to them."""
    for loss in ("PKDLoss", "mmrazor.L2Loss"):
        with pytest.raises(ValueError, match=r"level 0 of 3 images in training, the teacher of 1 \(TridentNet"):
            FeatureLoss("loss_x", dict(type=loss))([torch.rand(3, 4, 8, 8)], [torch.rand(1, 4, 8, 8)])


def test_maps_of_other_sizes_are_only_for_losses_that_resize():
    maps = [torch.rand(1, 4, 8, 8)], [torch.rand(1, 4, 4, 4)]
    assert FeatureLoss("loss_pkd", dict(type="PKDLoss"))(*maps) > 0
    with pytest.raises(ValueError, match=r"the same strides; or take mmrazor\.PKDLoss"):
        FeatureLoss("loss_cwd", dict(type="ChannelWiseDivergence"))(*maps)


def test_vectors_behind_a_classifiers_pooling():
    vectors = [torch.rand(2, 4)], [torch.rand(2, 4)]
    assert FeatureLoss("loss_l2", dict(type="mmrazor.L2Loss"))(*vectors) > 0
    connector = dict(type="ConvModuleConnector", in_channel=4, out_channel=4)
    for options in ({}, dict(levels=[0], student_connector=connector)):
        with pytest.raises(ValueError, match=r"level 0 is one vector for each image, .* mmrazor\.L2Loss takes"):
            FeatureLoss("loss_pkd", dict(type="PKDLoss", **options))(*vectors)


PAGE = (Path(__file__).resolve().parents[3] / "docs/features.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_what_the_page_shows_works_and_is_short(code):
    assert len(code.splitlines()) < 10
    found: dict = {}
    exec(code, found)
    ((name, config),) = found["feature_losses"].items()
    narrower = "ConvModuleConnector" in code
    teacher = [torch.rand(2, 256, 64 // 2**i, 64 // 2**i) for i in range(5)]
    student = [torch.rand(2, 128 if narrower else 256, 64 // 2**i, 64 // 2**i, requires_grad=True) for i in range(5)]
    loss = FeatureLoss(name, config)(student, teacher)
    loss.backward()
    assert loss > 0
    assert all((s.grad is not None) == (i in config["levels"]) for i, s in enumerate(student))
