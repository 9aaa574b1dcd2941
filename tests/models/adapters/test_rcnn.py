"""R-CNN heads: the teacher answers about the student's own RoIs."""

import copy
import re

import pytest
import torch
from fast_cases import fast_if
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from one_step import assert_no_pull, assert_same_gradients, beside_plain, distillation, fail_in_the_teacher, run_step
from tiny import (
    CASCADE,
    CASCADE_MASK,
    DOUBLE,
    DYNAMIC,
    FASTER,
    HTC,
    MASK,
    NUM_CLASSES,
    batch,
    build,
    build_pair,
    forward_hooks,
    perturb,
    tiny_rcnn,
    total,
)

from rekd_det.models.adapters import ADAPTERS, RCNNAdapter, build_adapter, register_adapter

FAMILIES = dict(
    faster=FASTER, mask=MASK, double=DOUBLE, dynamic=DYNAMIC, cascade=CASCADE, cascade_mask=CASCADE_MASK, htc=HTC
)


def data_for(model, family, **kwargs):
    with_mask = family in ("mask", "cascade_mask", "htc")
    return batch(model, with_mask=with_mask, with_semantic=family == "htc", **kwargs)


@pytest.fixture(params=fast_if(("faster", "mask", "cascade", "htc"), FAMILIES), scope="module")
def family(request):
    return request.param, tiny_rcnn(FAMILIES[request.param])


def test_identical_teacher_gives_bit_equal_rows_and_no_loss(family):
    name, config = family
    model = build_pair(config)
    step = run_step(model, data_for(model, name))
    assert len(step.rows) == (3 if "cascade" in name or name == "htc" else 1)
    for entry in step.rows:
        assert entry.student.shape == entry.teacher.shape == (len(entry.labels), NUM_CLASSES + 1)
        assert len(entry.labels) > 10
        assert torch.equal(entry.student, entry.teacher)
        assert not entry.teacher.requires_grad
    assert len(step.distill) == 2 * len(step.rows)
    assert_no_pull(model, step.distill)


def test_other_teacher_judges_the_students_rois_with_its_own_weights(family):
    name, config = family
    model = build_pair(config, teacher=perturb(build(config)))
    calls = []
    roi_head = model.teacher.roi_head
    forward = roi_head._bbox_forward
    seen = data_for(model, name)
    student_rois = []
    extractors = RCNNAdapter.by_stage(model.student.roi_head.bbox_roi_extractor)
    handles = [e.register_forward_hook(lambda m, a, o: student_rois.append(a[1])) for e in extractors]
    step = run_step(model, seen)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        feats = model.teacher.extract_feat(seen["inputs"])
        extra = {"semantic_feat": roi_head.semantic_head(feats)[1]} if name == "htc" else {}
        per_stage = student_rois[:: 2 if name == "double" else 1]
        for i, rois in enumerate(per_stage):
            args = (feats, rois) if len(step.rows) == 1 else (i, feats, rois)
            calls.append(forward(*args, **extra)["cls_score"])
    assert len(calls) == len(step.rows)
    for by_hand, entry in zip(calls, step.rows, strict=True):
        assert torch.equal(by_hand, entry.teacher)
        assert not torch.allclose(entry.student, entry.teacher, atol=1e-3)
    assert all(torch.isfinite(v) and v > 0 for v in step.distill.values())


def test_zero_weight_is_plain_mmdet_bit_for_bit(family):
    name, config = family
    model = build_pair(config, loss=dict(type="ReKDLoss", top_k=3, loss_weight=0.0), teacher=perturb(build(config)))
    ours, plain, theirs = beside_plain(model, data_for(model, name))
    assert_same_gradients(ours, model, theirs, plain)


def test_only_the_classification_path_of_the_teacher_runs(family):
    name, config = family
    model = build_pair(config)
    ran = set()
    for module_name, module in model.teacher.named_modules():
        module.register_forward_hook(lambda *_, n=module_name: ran.add(n))
    model(**data_for(model, name), mode="loss")
    wasted = ("rpn_head", "mask_head", "fc_reg", "loss_", "mask_roi_extractor", "conv_branch", "res_block")
    assert "roi_head.bbox_head" in ran or "roi_head.bbox_head.0" in ran or "roi_head.bbox_head.fc_cls" in ran
    assert not [n for n in ran if any(w in n for w in wasted)]


def test_layers_that_serve_the_teachers_boxes_alone_do_not_run():
    config = tiny_rcnn()
    branches = dict(num_shared_fcs=0, num_shared_convs=1, num_cls_fcs=1, num_reg_convs=1, num_reg_fcs=1)
    config.roi_head.bbox_head.update(type="ConvFCBBoxHead", conv_out_channels=8, **branches)
    model = build_pair(config)
    head, ran = model.teacher.roi_head.bbox_head, set()
    for name, layers in head.named_children():
        for layer in layers if isinstance(layers, torch.nn.ModuleList) else ():
            layer.register_forward_hook(lambda *_, n=name: ran.add(n))
    step = run_step(model, batch(model))
    assert ran == {"shared_convs", "cls_fcs"}
    assert_no_pull(model, step.distill)
    assert len(head.reg_convs) == len(head.reg_fcs) == 1


@pytest.mark.slow
def test_stage_weights_are_the_heads(family):
    name, config = family
    model = build_pair(config, teacher=perturb(build(config)))
    rows = run_step(model, data_for(model, name)).rows
    want = [1.0, 0.5, 0.25] if len(rows) == 3 else [1.0]
    assert [r.loss_weight for r in rows] == want
    assert [r.tag for r in rows] == (["s0", "s1", "s2"] if len(rows) == 3 else [""])


def test_nothing_is_left_behind_even_when_the_step_raises(family):
    name, config = family
    model = build_pair(config)
    data = data_for(model, name)
    before = forward_hooks(model.architecture)
    model(**copy.deepcopy(data), mode="loss")
    assert forward_hooks(model.architecture) == before
    fail_in_the_teacher(model, data)
    assert forward_hooks(model.architecture) == before
    assert all(s.logits is None and s.rois is None for s in model.distiller.adapter._stages)


def test_images_without_objects(family):
    name, config = family
    model = build_pair(config, teacher=perturb(build(config)))
    losses = model(**data_for(model, name, num_items=(0, 0)), mode="loss")
    assert torch.isfinite(total(losses))
    assert any(v > 0 for v in distillation(losses).values())
    total(losses).backward()


@pytest.mark.slow
def test_an_image_without_proposals_beside_one_with(family):
    name, config = family
    config = copy.deepcopy(config)
    config.train_cfg.rpn_proposal.min_bbox_size = 80  # nothing in the first image is as large
    model = build_pair(config, teacher=perturb(build(config)))
    data = data_for(model, name, shapes=((3, 64, 64), (3, 192, 192)), num_items=(0, 3))
    if name == "dynamic":  # mmdet's Dynamic R-CNN head itself can't do this
        with pytest.raises(IndexError):
            model.architecture(**data, mode="loss")
        return
    rois = []
    extractor = model.student.roi_head.bbox_roi_extractor
    extractor = extractor[0] if isinstance(extractor, torch.nn.ModuleList) else extractor
    extractor.register_forward_hook(lambda m, a, o: rois.append(a[1]))
    step = run_step(model, data)
    assert set(rois[0][:, 0].tolist()) == {1.0}
    assert len(step.rows[0].teacher) == len(rois[0]) > 0
    total(step.losses).backward()


@pytest.mark.parametrize(
    "distiller", [{}, dict(rows="object"), dict(loss=dict(type="DKDLoss"))], ids=["default", "rows", "DKD"]
)
def test_no_proposals_at_all(distiller):
    config = tiny_rcnn()
    # No proposal is large enough, and without ground truth none is added.
    config.train_cfg.rpn_proposal.min_bbox_size = 10_000
    distiller = dict(type="mmrazor.ReKDDistiller", loss=dict(type="ReKDLoss", top_k=3)) | distiller
    model = build_pair(config, teacher=perturb(build(config)), distiller=distiller)
    losses = model(**batch(model, num_items=(0, 0)), mode="loss")
    distill = distillation(losses)
    assert len(distill) == 2
    assert all(v == 0 and v.requires_grad for v in distill.values())


def test_one_image_without_objects_beside_one_with():
    model = build_pair(tiny_rcnn(), teacher=perturb(build(tiny_rcnn())))
    rows = run_step(model, batch(model, num_items=(0, 4))).rows
    assert len(rows[0].labels) > 24
    assert (rows[0].labels < NUM_CLASSES).any()


def test_wider_teacher():
    student, teacher = tiny_rcnn(width=8), tiny_rcnn(width=24)
    model = build_pair(student, teacher=build(teacher, seed=3))
    losses = model(**batch(model), mode="loss")
    assert losses["distill.loss_tisd"] > 0


def test_class_count_must_agree():
    with pytest.raises(ValueError, match=r"student has num_classes=6, the teacher num_classes=9"):
        build_pair(tiny_rcnn(), teacher=build(tiny_rcnn(num_classes=9)))


def test_heads_of_other_kinds_are_refused():
    with pytest.raises(TypeError, match=r"StandardRoIHead and the teacher's CascadeRoIHead classify different"):
        build_adapter(build(tiny_rcnn()), build(tiny_rcnn(CASCADE)))


def test_stage_count_must_agree():
    config = tiny_rcnn(CASCADE)
    head = config.roi_head
    head.update(num_stages=2, stage_loss_weights=[1, 0.5], bbox_head=head.bbox_head[:2])
    config.train_cfg.rcnn = config.train_cfg.rcnn[:2]
    with pytest.raises(ValueError, match="has 2 stages, the teacher's CascadeRoIHead has 3"):
        build_adapter(build(config), build(tiny_rcnn(CASCADE)))


def test_unaudited_heads_are_refused_with_lines_that_let_them_pass(monkeypatch):
    teacher, student = build(tiny_rcnn()), build(tiny_rcnn())
    head = student.roi_head
    head.__class__ = type("NewRoIHead", (StandardRoIHead,), {})
    head.bbox_head.__class__ = type("NewBBoxHead", (Shared2FCBBoxHead,), {})
    names = {c.__name__: c for c in (StandardRoIHead, type(head), type(head.bbox_head), register_adapter)}
    monkeypatch.setattr(RCNNAdapter, "supported_bbox_heads", RCNNAdapter.supported_bbox_heads)
    monkeypatch.setitem(ADAPTERS, type(head), None)
    del ADAPTERS[type(head)]  # and again after the test
    for message in (
        "the student's NewRoIHead is not supported. It derives from StandardRoIHead",
        "NewBBoxHead in a NewRoIHead is not supported; it derives from Shared2FCBBoxHead",
    ):
        with pytest.raises(TypeError, match=message) as error:
            build_adapter(student, teacher)
        exec(re.search("`(.*)`", str(error.value))[1], names | {"ADAPTERS": ADAPTERS})
    assert type(build_adapter(student, teacher)) is RCNNAdapter


def test_detector_without_a_classifier():
    student = build(tiny_rcnn())
    del student.roi_head
    with pytest.raises(TypeError, match="FasterRCNN has no classification head"):
        build_adapter(student, build(tiny_rcnn()))


def test_the_students_row_weights_reach_the_loss():
    model = build_pair(tiny_rcnn(), teacher=perturb(build(tiny_rcnn())))
    step = run_step(model, batch(model))
    (entry,) = step.rows
    want, statistics = model.distiller.loss.components(entry.student, entry.teacher, entry.weight, entry.avg_factor)
    assert entry.avg_factor == len(entry.labels)
    for key, value in (want | statistics).items():
        torch.testing.assert_close(step.losses[f"distill.{key}"], value)


@pytest.mark.parametrize("path", [FASTER, CASCADE])
def test_the_heads_class_weight_belongs_to_its_rows(path):
    config = tiny_rcnn(path)
    heads = config.roi_head.bbox_head
    weights = [0.3, 2.0, 1.0, 0.5, 4.0, 1.0, 0.1]  # the last one is the background's
    for head in heads if isinstance(heads, list) else [heads]:
        head.loss_cls.class_weight = weights
    model = build_pair(config)
    step = run_step(model, batch(model))
    for entry in step.rows:
        cost = torch.nn.functional.cross_entropy(entry.student, entry.labels, reduction="none") * entry.weight
        name = f"{entry.tag}.loss_cls" if entry.tag else "loss_cls"
        torch.testing.assert_close(cost.sum() / entry.avg_factor * entry.loss_weight, step.losses[name])
