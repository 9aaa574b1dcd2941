"""R-CNN heads beyond Faster, Mask and Cascade: the teacher judges the student's RoIs, whatever surrounds the head."""

import copy

import pytest
import torch
from fast_cases import fast_if
from one_step import assert_leaves_nothing, assert_no_pull, beside_plain, run_step
from tiny import total
from zoo_pairs import perturbed_pair, zoo_pair

from rekd_det.models.adapters import build_adapter
from rekd_det.models.adapters.roi.bbox_logits import joint_seesaw_logits
from rekd_det.models.utils.taps import TapSet
from rekd_det.structures import LogitMeaning
from rekd_det.testing.tiny_detectors import build_random, pair_of, tiny_batch, tiny_config

FAST = dict(
    grid="grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py",
    pisa="pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py",
    sabl="sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py",
    scnet="scnet/scnet_r50_fpn_1x_coco.py",
    crowddet="crowddet/crowddet-rcnn_refine_r50_fpn_8xb2-30e_crowdhuman.py",
    seesaw="seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py",
)
SLOW = dict(
    libra="libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py",
    sabl_cascade="sabl/sabl-cascade-rcnn_r50_fpn_1x_coco.py",
    point_rend="point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py",
    mask_scoring="ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py",
    trident="tridentnet/tridentnet_r50-caffe_1x_coco.py",
    detectors_cascade="detectors/detectors_cascade-rcnn_r50_1x_coco.py",
    detectors_htc="detectors/detectors_htc-r50_1x_coco.py",
    crowddet_plain="crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py",
    v3det="v3det/faster_rcnn_r50_fpn_8x4_sample1e-3_mstrain_v3det_2x.py",
)
STAGES = dict(scnet=3, sabl_cascade=3, detectors_cascade=3, detectors_htc=3)

#: mmdet's own losses of these fail on a batch without any object
NEED_AN_OBJECT = ("crowddet", "crowddet_plain", "point_rend")


@pytest.fixture(params=fast_if(FAST, FAST | SLOW), scope="module")
def family(request):
    name = request.param
    model, batch = zoo_pair((FAST | SLOW)[name], (96, 128) if name.startswith("detectors") else (64, 96))
    return name, model, batch


def by_hand(model, batch, feats, rois):
    """The classifier's output of the teacher for RoIs of one stage, whole head, without what the adapter leaves out."""
    head = model.teacher.roi_head
    context = {}
    if getattr(head, "with_semantic", False):
        context["semantic_feat"] = head.semantic_head(feats)[1]
    if getattr(head, "with_glbctx", False):
        context["glbctx_feat"] = head.glbctx_head(feats)[1]
    if len(rois) == 1:
        return [head._bbox_forward(feats, rois[0], **context)]
    return [head._bbox_forward(i, feats, r, **context) for i, r in enumerate(rois)]


def as_rows(name, output):
    if name.startswith("crowddet"):
        scores = [output["cls_score"]] + ([output["cls_score_ref"]] if "cls_score_ref" in output else [])
        return torch.cat([s.reshape(-1, 2) for s in scores])
    if name == "seesaw":
        classes, objectness = output["cls_score"][:, :-2].softmax(1), output["cls_score"][:, -2:].softmax(1)
        return torch.cat([classes * objectness[:, :1], objectness[:, 1:]], 1).log()
    return output["cls_score"]


def student_rois(model):
    """Record the RoIs of the calls of the student's box heads."""
    extractors = model.architecture.roi_head.bbox_roi_extractor
    heads = model.architecture.roi_head.bbox_head
    stages = zip(*(m if isinstance(m, torch.nn.ModuleList) else [m] for m in (extractors, heads)), strict=True)
    last, rois, handles = {}, {}, []
    for i, (extractor, head) in enumerate(stages):
        handles.append(extractor.register_forward_hook(lambda m, a, o, i=i: last.__setitem__(i, a[1])))
        handles.append(head.register_forward_hook(lambda m, a, o, i=i: rois.__setitem__(i, last[i])))
    return rois, handles


def test_identical_teacher_gives_bit_equal_rows_and_no_loss(family):
    name, model, batch = family
    step = run_step(model, batch)
    assert len(step.rows) == STAGES.get(name, 1)
    for entry in step.rows:
        assert len(entry.student) > 10
        assert torch.equal(entry.student, entry.teacher)
        assert entry.student.requires_grad and not entry.teacher.requires_grad
        if not name.startswith("crowddet"):
            assert entry.labels.shape == entry.weight.shape == entry.student.shape[:1]
    assert_no_pull(model, step.distill)


@pytest.mark.slow
def test_other_teacher_judges_the_students_rois_with_its_own_weights(family):
    name, model, batch = family
    model = perturbed_pair(model, 0.001 if name == "trident" else 0.02)  # its layers are as wide as the zoo's
    rois, handles = student_rois(model)
    step = run_step(model, batch)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        outputs = by_hand(model, batch, tuple(step.feats), [rois[i] for i in sorted(rois)])
    for output, entry in zip(outputs, step.rows, strict=True):
        if name == "seesaw":
            torch.testing.assert_close(entry.teacher, as_rows(name, output), atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(entry.teacher, as_rows(name, output))
        assert not torch.allclose(entry.teacher, entry.student, atol=1e-6)
    two_logits = name.startswith("crowddet")  # one of them is the head, so that the tail has no relations
    assert all(torch.isfinite(v) and (v > 0 or (two_logits and "ntid" in k)) for k, v in step.distill.items())
    total(step.losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


def test_zero_scale_is_plain_mmdet(family):
    _, model, batch = family
    model = perturbed_pair(model)
    model.distiller.scale = 0.0
    _, plain, _ = beside_plain(model, batch)
    for a, b in zip(plain.buffers(), model.architecture.buffers(), strict=True):
        assert torch.equal(a, b)  # a loss that counts its samples counted them once


def test_nothing_is_left_behind_and_the_teacher_stays_as_it_was(family):
    _, model, batch = family
    heads = model.teacher.roi_head.bbox_head
    head = heads[0] if isinstance(heads, torch.nn.ModuleList) else heads
    with_reg = getattr(head, "with_reg", None)
    assert_leaves_nothing(model, batch, head)
    assert getattr(head, "with_reg", None) == with_reg


@pytest.mark.slow
def test_images_without_objects(family):
    name, model, batch = family
    model = perturbed_pair(model)
    batch = copy.deepcopy(batch)
    for sample in batch["data_samples"][: 1 if name in NEED_AN_OBJECT else None]:
        sample.gt_instances = sample.gt_instances[:0]
    step = run_step(model, batch)
    assert torch.isfinite(total(step.losses))
    total(step.losses).backward()
    model.zero_grad()


def test_rois_are_those_of_the_box_head_also_if_another_branch_shares_its_extractor():
    model, batch = zoo_pair(FAST["grid"], (64, 96))
    head, adapter = model.architecture.roi_head, model.distiller.adapter
    boxes, jittered = torch.tensor([[0.0, 1, 1, 40, 40]]), torch.tensor([[0.0, 9, 9, 30, 30], [0, 5, 5, 9, 9]])
    with TapSet() as taps:
        adapter.tap(taps)
        feats = model.architecture.extract_feat(batch["inputs"])
        head._bbox_forward(feats, boxes)
        head.bbox_roi_extractor(feats[:4], jittered)  # Grid R-CNN does so for its grids, if it shares it
        assert torch.equal(adapter._stages[0].rois, boxes)


def test_seesaw_rows_are_the_distribution_that_the_head_predicts_with():
    config = tiny_config(f"mmdet::{FAST['seesaw']}")
    loss = build_random(config).roi_head.bbox_head.loss_cls
    output = torch.randn(7, loss.num_classes + 2) * 3
    torch.testing.assert_close(joint_seesaw_logits(output).softmax(1), loss.get_activation(output))


@pytest.mark.parametrize("taught", ["softmax", "seesaw"])
def test_seesaw_and_softmax_teach_each_other(taught):
    configs = dict(seesaw=tiny_config(f"mmdet::{FAST['seesaw']}"))
    configs["softmax"] = copy.deepcopy(configs["seesaw"])
    configs["softmax"].roi_head.bbox_head.loss_cls = dict(type="CrossEntropyLoss")
    student = build_random(configs.pop(taught))
    (teacher,) = map(build_random, configs.values())
    model = pair_of(student, teacher.eval())
    step = run_step(model, tiny_batch(student, (64, 96)))
    (entry,) = step.rows
    head = teacher.roi_head.bbox_head
    assert entry.student.shape == entry.teacher.shape == (len(entry.labels), head.num_classes + 1)
    seesaw = entry.teacher if taught == "softmax" else entry.student
    torch.testing.assert_close(seesaw.exp().sum(1), torch.ones(len(seesaw)))  # log-probabilities
    total(step.losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_v3det_is_sigmoid_over_the_channels_that_its_loss_asks_for():
    config = tiny_config(f"mmdet::{SLOW['v3det']}")
    config.roi_head.bbox_head.update(num_classes=30)
    config.roi_head.bbox_head.loss_cls.update(num_classes=30)
    model = pair_of(build_random(config), build_random(config).eval())
    adapter = model.distiller.adapter
    assert (adapter.meaning, adapter.num_logits) == (LogitMeaning("sigmoid"), 30)
    assert model.distiller.loss.activation == "sigmoid"


def test_trident_branches_must_agree():
    config = tiny_config(f"mmdet::{SLOW['trident']}")
    student, teacher = build_random(config), build_random(config)
    teacher.roi_head.num_branch = 2
    with pytest.raises(ValueError, match="num_branch=3, the teacher 2"):
        build_adapter(student, teacher)


def test_classifiers_of_other_kinds_are_refused():
    config = tiny_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    config.roi_head.bbox_head.num_classes = 30
    sigmoid = copy.deepcopy(config)
    sigmoid.roi_head.bbox_head.loss_cls = dict(type="CrossEntropyCustomLoss", use_sigmoid=True, num_classes=30)
    with pytest.raises(ValueError, match="31 softmax logits per row, the teacher's Shared2FCBBoxHead 30 sigmoid"):
        build_adapter(build_random(config), build_random(sigmoid))
    sigmoid.roi_head.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=True)
    with pytest.raises(TypeError, match=r"loss_cls\.use_sigmoid=False"):
        build_adapter(build_random(sigmoid), build_random(sigmoid))
