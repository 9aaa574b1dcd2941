"""Heads whose boxes are distributions: the teacher is asked about the sides of the student's positive rows."""

import copy

import pytest
import torch
from mmdet.models.losses import KnowledgeDistillationKLDivLoss
from one_step import assert_no_pull, distillation
from tiny import tiny_rcnn, total
from zoo_pairs import level_major, perturbed_pair, zoo_pair

from rekd_det.models.losses import KDLoss
from rekd_det.models.utils.taps import TapSet
from rekd_det.models.utils.true_rows import true_rows
from rekd_det.testing.tiny_detectors import build_random, pair_of, self_pair, tiny_config

GFL = "gfl/gfl_r50_fpn_1x_coco.py"
LD = dict(type="mmrazor.KDLoss", tau=10.0)
REKD = dict(type="mmrazor.ReKDLoss", top_k=4)
BINS = 17
BACKENDS = pytest.mark.parametrize("backend", ["eager", "fused"])


def gfl_pair(box_loss, loss=None, same=False, path=GFL):
    """A pair with ``box_loss``, and a batch for it; ``same`` makes the teacher an exact copy."""
    model, batch = zoo_pair(path, (96, 96))
    teacher = model.teacher if same else perturbed_pair(model).teacher
    options = {} if loss is None else dict(loss=loss)
    model = pair_of(model.architecture, teacher, box_loss=box_loss, **options)
    model.train = lambda mode=True: model  # norms were put in eval mode on purpose
    return model, batch


def step(model, batch):
    """The losses of a step, the aligned classes and boxes, and the teacher's feature maps."""
    kept = []
    with TapSet() as taps:
        keep = lambda args, kwargs, boxes: kept.extend([boxes, args[1][0], args[0]])  # noqa: E731
        taps.add_method(model.distiller.adapter, "align_boxes", keep)
        losses = model(**copy.deepcopy(batch), mode="loss")
    return losses, *kept


def boxes_of(losses):
    return {k: v for k, v in distillation(losses).items() if k.startswith("distill.box.")}


@BACKENDS
@pytest.mark.parametrize("box_loss", [LD, REKD, dict(REKD, tisd="within", top_k=0.9)])
@pytest.mark.parametrize("path", [GFL, "ld/ld_r18-gflv1-r101_fpn_1x_coco.py"], ids=["gfl", "ld"])
def test_identical_teacher_gives_bit_equal_rows_and_no_pull(box_loss, backend, path):
    model, batch = gfl_pair(dict(box_loss, backend=backend), same=True, path=path)
    losses, boxes, *_ = step(model, batch)
    assert boxes.student.shape == (boxes.num_rows, BINS) and boxes.num_rows > 40
    assert boxes.student.equal(boxes.teacher)
    assert boxes.student.requires_grad and not boxes.teacher.requires_grad
    names = {"loss_kd"} if box_loss is LD else {"loss_tisd", "loss_ntid"}
    assert set(boxes_of(losses)) == {f"distill.box.{name}" for name in names}
    # log_softmax sums in another order for the two sides of a KL.
    assert_no_pull(model, boxes_of(losses), tolerance=1e-6 if backend == "eager" else 0.0)


def test_rows_are_the_positive_rows_sides_and_weights_the_teachers_quality():
    model, batch = gfl_pair(LD)
    _, boxes, classes, feats = step(model, batch)
    student, teacher = model.architecture, model.teacher
    positive = classes.labels < student.bbox_head.num_classes
    assert 0 < positive.sum() < len(positive)
    with torch.no_grad():
        theirs = teacher.bbox_head(tuple(feats))
        ours = student.bbox_head(student.extract_feat(batch["inputs"]))[1]
    assert boxes.student.equal(level_major(ours, 4 * BINS)[positive].reshape(-1, BINS))
    assert boxes.teacher.equal(level_major(theirs[1], 4 * BINS)[positive].reshape(-1, BINS))
    quality = level_major(theirs[0], student.bbox_head.num_classes)[positive].sigmoid().amax(1)
    torch.testing.assert_close(boxes.weight, quality.repeat_interleave(4))
    torch.testing.assert_close(boxes.avg_factor, 4 * quality.sum().clamp(min=1))
    assert boxes.labels is None


@BACKENDS
def test_kd_of_the_bins_is_mmdets_localisation_distillation(backend):
    model, batch = gfl_pair(dict(LD, backend=backend))
    losses, boxes, *_ = step(model, batch)
    theirs = KnowledgeDistillationKLDivLoss(T=10, loss_weight=BINS)  # mmdet takes the mean over the bins
    want = theirs(boxes.student, boxes.teacher, weight=boxes.weight, avg_factor=float(boxes.avg_factor))
    torch.testing.assert_close(losses["distill.box.loss_kd"], want, rtol=1e-4, atol=1e-6)
    (got,) = torch.autograd.grad(losses["distill.box.loss_kd"], boxes.student, retain_graph=True)
    (wanted,) = torch.autograd.grad(want, boxes.student)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-7)


@BACKENDS
def test_gradients_are_those_of_the_closed_form(backend):
    model, batch = gfl_pair(dict(REKD, backend=backend))
    losses, boxes, *_ = step(model, batch)
    t, s = boxes.teacher, boxes.student.detach()
    p, q = t.softmax(1), s.softmax(1)
    top = torch.zeros_like(t, dtype=torch.bool).scatter_(1, t.topk(4).indices, True)
    p_mass, q_mass = ((x * top).sum(1, keepdim=True) for x in (p, q))
    share = (boxes.weight / boxes.avg_factor)[:, None]
    wanted = {
        "loss_tisd": torch.where(top, q - p, q / (1 - q_mass) * (p_mass - q_mass)) * share,
        "loss_ntid": torch.where(top, 0.0, q / (1 - q_mass) - p / (1 - p_mass)) * share,
    }
    for name, want in wanted.items():
        (got,) = torch.autograd.grad(losses[f"distill.box.{name}"], boxes.student, retain_graph=True)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)
        assert got.abs().max() > 1e-4


@pytest.mark.parametrize("box_loss", [LD, REKD])
def test_eager_and_fused_give_the_student_the_same_gradients(box_loss):
    found = []
    for backend in ("eager", "fused"):
        model, batch = gfl_pair(dict(box_loss, backend=backend))
        losses = boxes_of(model(**copy.deepcopy(batch), mode="loss"))
        total(losses).backward()
        grads = {n: p.grad for n, p in model.architecture.named_parameters() if p.grad is not None}
        assert "bbox_head.gfl_reg.weight" in grads
        assert not any(n.startswith("bbox_head.gfl_cls") for n in grads), "the boxes' loss trains the boxes"
        found.append((losses, grads))
    (eager, grads), (fused, others) = found
    torch.testing.assert_close(eager, fused, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grads, others, rtol=1e-3, atol=1e-5)


def test_weight_0_is_plain_mmdet():
    nothing = dict(type="mmrazor.ReKDLoss", top_k=1, loss_weight=0.0)
    model, batch = gfl_pair(dict(REKD, loss_weight=0.0), loss=nothing)
    plain = copy.deepcopy(model.architecture)
    results = []
    for module, prefix in ((model, "architecture."), (plain, "")):
        losses = module(**copy.deepcopy(batch), mode="loss")
        total(losses).backward()
        own = {k: v for k, v in losses.items() if not k.startswith("distill.")}
        grads = {k.removeprefix(prefix): p.grad for k, p in module.named_parameters() if p.grad is not None}
        results.append((own, grads))
        assert all(v == 0 for v in distillation(losses).values())
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_no_branch_of_either_head_runs_twice():
    model, batch = gfl_pair(REKD)
    calls = {}
    for role, head in (("student", model.architecture.bbox_head), ("teacher", model.teacher.bbox_head)):
        for name in ("gfl_cls", "gfl_reg"):
            getattr(head, name).register_forward_hook(
                lambda *_, key=(role, name): calls.update({key: calls.get(key, 0) + 1})
            )
    with_positives = []
    model.architecture.bbox_head.loss_dfl.register_forward_hook(lambda *_: with_positives.append(1))
    model(**copy.deepcopy(batch), mode="loss")
    assert 0 < len(with_positives) < 5
    assert calls == {
        ("student", "gfl_cls"): 5,
        ("student", "gfl_reg"): 5,
        ("teacher", "gfl_cls"): 5,
        ("teacher", "gfl_reg"): len(with_positives),
    }
    adapter = model.distiller.adapter
    assert not adapter._sides and adapter._box_map is None, "a tensor outlives its step"


@pytest.mark.parametrize("loss", [None, dict(type="mmrazor.ReKDLoss", top_k=1)], ids=["boxes alone", "with classes"])
@BACKENDS
def test_images_without_objects(loss, backend):
    model, batch = gfl_pair(dict(REKD, backend=backend))
    if loss is None:
        model = pair_without_classes(model, dict(REKD, backend=backend))
    for sample in batch["data_samples"]:
        sample.gt_instances = sample.gt_instances[:0]
    losses = boxes_of(model(**batch, mode="loss"))
    assert set(losses) == {"distill.box.loss_tisd", "distill.box.loss_ntid"}
    assert all(v == 0 for v in losses.values())
    total(losses).backward()  # attached to the graph: it would raise otherwise
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def pair_without_classes(model, box_loss):
    from mmdet.registry import MODELS

    distiller = dict(type="mmrazor.ReKDDistiller", loss=None, box_loss=box_loss)
    parts = dict(architecture=model.architecture, teacher=model.teacher, distiller=distiller)
    return MODELS.build(dict(type="mmrazor.ReKDDistill", **parts))


def test_boxes_alone():
    model, batch = gfl_pair(LD)
    both = boxes_of(model(**copy.deepcopy(batch), mode="loss"))
    alone = pair_without_classes(model, LD)
    alone.train = lambda mode=True: alone
    losses = alone(**copy.deepcopy(batch), mode="loss")
    assert set(distillation(losses)) == {"distill.box.loss_kd"}
    torch.testing.assert_close(boxes_of(losses), both)


def test_true_rows():
    mask = torch.tensor([False, True, True, False, True])
    assert true_rows(mask, 3).tolist() == [1, 2, 4]
    assert true_rows(mask & False, 0).tolist() == []


# --- what is refused


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("retinanet/retinanet_r50_fpn_1x_coco.py", "RetinaHead"),
        ("vfnet/vfnet_r50_fpn_1x_coco.py", "VFNetHead"),
        ("paa/paa_r50_fpn_1x_coco.py", "PAAHead"),
        ("ddod/ddod_r50_fpn_1x_coco.py", "DDODHead"),
        ("rtmdet/rtmdet_tiny_8xb32-300e_coco.py", "RTMDetSepBNHead"),
    ],
)
def test_heads_whose_boxes_are_numbers(path, head):
    student = build_random(tiny_config(f"mmdet::{path}"))
    with pytest.raises(ValueError, match=rf"model\.distiller\.box_loss: {head} .*no reg_max.*pair of.*GFLHead, LDHead"):
        pair_of(student, copy.deepcopy(student), box_loss=LD)


def test_an_rcnn_is_refused():
    with pytest.raises(ValueError, match=r"model\.distiller\.box_loss: StandardRoIHead .*no reg_max"):
        pair_of(build_random(tiny_rcnn()), build_random(tiny_rcnn()), box_loss=LD)


def test_a_teacher_that_teaches_the_classes_alone():
    student = build_random(tiny_config(f"mmdet::{GFL}"))
    teacher = build_random(tiny_config("mmdet::atss/atss_r50_fpn_1x_coco.py"))
    with pytest.raises(ValueError, match=r"model\.distiller\.box_loss: ATSSHead .*no reg_max"):
        pair_of(student, teacher, box_loss=LD)


@pytest.mark.parametrize(
    ("box_loss", "error", "message"),
    [
        (dict(REKD, top_k=0), ValueError, r"model\.distiller\.box_loss: ReKDLoss: top_k must be an int >= 1"),
        (dict(REKD, activation="sigmoid"), ValueError, r"box_loss\.activation='sigmoid': the bins of a side are one"),
        (dict(REKD, reduction="none"), ValueError, r"^model\.distiller\.box_loss\.reduction='none' gives no scalar"),
        (dict(REKD, foreground_only=True), ValueError, r"model\.distiller\.box_loss: ReKDLoss: foreground_only"),
        (dict(type="DKDLoss"), ValueError, r"model\.distiller\.box_loss: DKDLoss needs one label for each row"),
        (dict(type="BCKDLoss"), ValueError, r"model\.distiller\.box_loss: BCKDLoss: activation must be one of"),
        ("KDLoss", TypeError, r"model\.distiller\.box_loss must be a config dict, or None, got str"),
    ],
)
def test_wrong_options(box_loss, error, message):
    student = build_random(tiny_config(f"mmdet::{GFL}"))
    with pytest.raises(error, match=message):
        pair_of(student, copy.deepcopy(student), box_loss=box_loss)


def test_a_name_without_the_scope_and_a_built_loss():
    student = build_random(tiny_config(f"mmdet::{GFL}"))
    model = pair_of(student, copy.deepcopy(student), box_loss=dict(type="KDLoss"))
    assert isinstance(model.distiller.box_loss, KDLoss)
    assert self_pair(tiny_config(f"mmdet::{GFL}")).distiller.box_loss is None


@pytest.mark.parametrize("stopped", [False, True])
def test_the_teacher_inside_an_ld_student_moves_with_it(stopped):
    """mmdet moves it in the detector's own `to()`, which is not called where the detector is part of a pair."""
    model, _ = gfl_pair(LD, path="ld/ld_r18-gflv1-r101_fpn_1x_coco.py")
    model.distillation_stopped = stopped
    model.to("meta")
    assert all(p.is_meta for p in model.student.teacher_model.parameters())
