"""Dense heads: the teacher classifies the student's anchors, points and cells, in the order of the student's loss."""

import copy

import pytest
import torch
from fast_cases import fast_if
from one_step import (
    assert_leaves_nothing,
    assert_no_pull,
    beside_plain,
    distillation,
    fail_in_the_teacher,
    run_step,
    traces,
)
from tiny import perturb, total
from zoo_pairs import image_major, level_major, perturbed_pair, zoo_pair

from rekd_det.models.adapters import build_adapter
from rekd_det.models.adapters.dense.dense import flatten_maps
from rekd_det.models.adapters.dense.dense_output import joint_logits
from rekd_det.testing.tiny_detectors import build_random, pair_of, tiny_batch, tiny_config
from rekd_det.utils.shadow import shadowed


def rows_of(order=level_major, read=lambda head, feats: head(tuple(feats))[0]):
    """How a test reads a teacher's rows: all of them, off the head's own forward."""
    return lambda head, feats: order(read(head, feats), head.cls_out_channels)


def in_training(index):
    """Heads whose eval mode gives something else than logits: train mode of the head alone, not of its norms."""

    def read(head, feats):
        with shadowed(head, "training", True):
            return head(tuple(feats))[index]

    return rows_of(read=read)


def tood_rows(head, feats):
    return torch.logit(level_major(head(tuple(feats))[0], head.num_classes).float(), eps=1e-6)


def yolov3_rows(head, feats):
    return level_major(head(tuple(feats))[0], head.num_attrib)[:, 5:]


def centernet_rows(head, feats):
    return level_major(head(tuple(feats))[0], head.num_classes)


def autoassign_rows(head, feats):
    scores, _, objectness = head(tuple(feats))
    joint = [s.double().sigmoid() * o.double().sigmoid() for s, o in zip(scores, objectness, strict=True)]
    return level_major(joint, head.num_classes).float()


def corner_rows(head, feats):
    out = head(tuple(feats))
    return level_major([m for pair in zip(out[0], out[1], strict=True) for m in pair], head.num_classes)


# name: config, size, how to read the teacher's rows, whether the head's own classification loss can be recomputed from
# rows, labels, weights and avg_factor
FAST = dict(
    retina=("retinanet/retinanet_r50_fpn_1x_coco.py", 96, rows_of(), True),
    atss=("atss/atss_r50_fpn_1x_coco.py", 96, rows_of(), True),
    gfl=("gfl/gfl_r50_fpn_1x_coco.py", 96, rows_of(), False),
    fcos=("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", 96, rows_of(), True),
    rtmdet=("rtmdet/rtmdet_tiny_8xb32-300e_coco.py", 96, rows_of(), False),
    yolox=("yolox/yolox_tiny_8xb8-300e_coco.py", 96, rows_of(image_major), False),
    tood=("tood/tood_r50_fpn_1x_coco.py", 96, tood_rows, False),
    autoassign=("autoassign/autoassign_r50-caffe_fpn_1x_coco.py", 96, autoassign_rows, False),
    yolof=("yolof/yolof_r50-c5_8xb8-1x_coco.py", 96, rows_of(), True),
    ssd=("ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py", 96, rows_of(image_major), False),
    yolov3=("yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py", 96, yolov3_rows, False),
    centernet=("centernet/centernet_r18_8xb16-crop512-140e_coco.py", 96, centernet_rows, False),
)
SLOW = dict(
    fovea=("foveabox/fovea_r50_fpn_4xb4-1x_coco.py", 96, rows_of(), True),
    fsaf=("fsaf/fsaf_r50_fpn_1x_coco.py", 96, rows_of(), False),
    free_anchor=("free_anchor/freeanchor_r50_fpn_1x_coco.py", 96, rows_of(), False),
    cornernet=("cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py", 128, corner_rows, False),
    pisa_retina=("pisa/retinanet-r50_fpn_pisa_1x_coco.py", 96, rows_of(image_major), True),
    guided=("guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py", 96, in_training(0), True),
    yolact=("yolact/yolact_r50_1xb8-55e_coco.py", 96, rows_of(image_major), False),
    solov2=("solov2/solov2-light_r18_fpn_ms-3x_coco.py", 96, in_training(1), True),
    rtmdet_ins=("rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py", 96, rows_of(), False),
    vfnet=("vfnet/vfnet_r50_fpn_1x_coco.py", 96, rows_of(), False),
    ddod=("ddod/ddod_r50_fpn_1x_coco.py", 288, rows_of(), False),
    paa=("paa/paa_r50_fpn_1x_coco.py", 96, rows_of(image_major), True),
    lad=("lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py", 96, rows_of(image_major), True),
    ld=("ld/ld_r18-gflv1-r101_fpn_1x_coco.py", 96, rows_of(), False),
    fovea_align=("foveabox/fovea_r50_fpn_gn-head-align_4xb4-2x_coco.py", 96, rows_of(), True),
    centernet_update=("centernet/centernet-update_r18_fpn_8xb8-amp-lsj-200e_coco.py", 96, rows_of(), False),
    centripetal=(
        "centripetalnet/centripetalnet_hourglass104_16xb6-crop511-210e-mstest_coco.py",
        128,
        corner_rows,
        False,
    ),
    reppoints=("reppoints/reppoints-moment_r50_fpn_1x_coco.py", 96, rows_of(), True),
    nas_fcos=("nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py", 96, rows_of(), True),
    sabl_retina=("sabl/sabl-retinanet_r50_fpn_1x_coco.py", 96, rows_of(), True),
    ghm=("ghm/retinanet_r50_fpn_ghm-1x_coco.py", 96, rows_of(), False),
    sepbn=("nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py", 128, rows_of(), True),
    dyhead=("dyhead/atss_r50_fpn_dyhead_1x_coco.py", 96, rows_of(), True),
    pisa_ssd=("pisa/ssd300_pisa_coco.py", 300, rows_of(image_major), False),
    solo=("solo/solo_r50_fpn_1x_coco.py", 96, in_training(-1), True),
    decoupled_solo=("solo/decoupled-solo_r50_fpn_1x_coco.py", 96, in_training(-1), True),
    decoupled_solo_light=("solo/decoupled-solo-light_r50_fpn_3x_coco.py", 96, in_training(-1), True),
    condinst=("condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py", 96, rows_of(), True),
    boxinst=("boxinst/boxinst_r50_fpn_ms-90k_coco.py", 96, rows_of(), True),
)
FAMILIES = FAST | SLOW
# These heads give probabilities where the test reads them.
APPROXIMATE = ("autoassign", "centernet")


@pytest.fixture(params=fast_if(FAST, FAMILIES), scope="module")
def family(request):
    name = request.param
    path, size, read, _ = FAMILIES[name]
    model, batch = zoo_pair(path, (size, size), epoch=9 if name == "tood" else 0)
    return name, model, batch, read


def test_identical_teacher_gives_bit_equal_rows_and_no_loss(family):
    name, model, batch, _ = family
    step = run_step(model, batch)
    (entry,) = step.rows  # all levels together
    assert entry.student.shape[1] == model.distiller.adapter.num_logits
    assert len(entry.student) > (0 if name == "yolox" else 50)
    assert torch.equal(entry.student, entry.teacher)
    assert entry.student.requires_grad and not entry.teacher.requires_grad
    assert set(step.distill) == {"distill.loss_tisd", "distill.loss_ntid"}
    assert_no_pull(model, step.distill)


def test_other_teacher_judges_the_same_rows_with_its_own_weights(family):
    name, model, batch, read = family
    model = perturbed_pair(model)
    step = run_step(model, batch)
    (entry,) = step.rows
    adapter = model.distiller.adapter
    with torch.no_grad():
        by_hand = read(adapter.teacher, step.feats)
        if name == "yolox":  # rows are some locations: find them among all the student's
            everything = read(adapter.student, model.architecture.extract_feat(batch["inputs"]))
            same = (entry.student[:, None] == everything[None]).all(2)
            assert (same.sum(1) == 1).all()
            by_hand = by_hand[same.float().argmax(1)]
    if name in APPROXIMATE:
        torch.testing.assert_close(entry.teacher.sigmoid(), by_hand, atol=1e-6, rtol=1e-5)
    else:
        assert torch.equal(entry.teacher, by_hand)
    assert not torch.equal(entry.teacher, entry.student)
    assert all(torch.isfinite(v) and v > 0 for v in step.distill.values())
    total(step.losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in model.teacher.parameters())
    model.zero_grad()


UNREAD = dict(
    vfnet=("vfnet/vfnet_r50_fpn_1x_coco.py", ["vfnet_reg_refine_dconv", "vfnet_reg_refine"]),
    reppoints=(
        "reppoints/reppoints-moment_r50_fpn_1x_coco.py",
        ["reppoints_pts_refine_conv", "reppoints_pts_refine_out"],
    ),
    reppoints_grid=(
        "reppoints/reppoints-bbox_r50_fpn-gn_head-gn-grid_1x_coco.py",
        ["reppoints_pts_refine_conv", "reppoints_pts_refine_out"],
    ),
)


@pytest.mark.parametrize("name", fast_if(["vfnet"], UNREAD))
def test_the_teacher_refines_no_boxes_and_classifies_to_the_last_bit(name, monkeypatch):
    path, unread = UNREAD[name]
    model = perturbed_pair(zoo_pair(path, (96, 96))[0])
    data, head = tiny_batch(model.architecture, (96, 96)), model.teacher.bbox_head

    def boom(*_):
        raise AssertionError("a layer ran whose result nothing reads")

    with monkeypatch.context() as patch:
        for layer in unread:
            patch.setattr(getattr(head, layer), "forward", boom)
        step = run_step(model, data)
        assert all(getattr(head, layer).forward is boom for layer in unread)  # the head is as it was
    (entry,) = step.rows
    with torch.no_grad():
        assert torch.equal(entry.teacher, level_major(head(tuple(step.feats))[0], head.num_classes))


def test_labels_weights_and_avg_factor_are_the_heads_own(family):
    name, model, batch, _ = family
    step = run_step(model, batch)
    (entry,) = step.rows
    # What is said before the training about labels holds in it.
    assert (entry.labels is None) == (model.distiller.adapter.no_labels is not None)
    if entry.labels is not None:
        assert entry.labels.shape == entry.student.shape[:1]
        assert entry.labels.min() >= -1
        assert (entry.labels < model.distiller.adapter.num_logits).sum() > 0
    if entry.weight is not None:
        assert entry.weight.shape == entry.student.shape[:1]
    own = total({k: v for k, v in step.losses.items() if k == "loss_cls"}) if "loss_cls" in step.losses else None
    if FAMILIES[name][3]:
        loss = model.distiller.adapter.student.loss_cls
        again = loss(entry.student, entry.labels, entry.weight, avg_factor=entry.avg_factor)
        torch.testing.assert_close(again.sum(), own)
    elif name in ("ssd", "yolact", "pisa_ssd"):
        cost = torch.nn.functional.cross_entropy(entry.student, entry.labels, reduction="none")
        torch.testing.assert_close((cost * entry.weight).sum() / entry.avg_factor, own)


def target_qualities(targets, _):
    """The sum of what the head's own loss has as qualities of its positives, at least 1."""
    return max(float(sum(quality.sum() for _, quality in targets)), 1.0)


def positives(_, labels):
    return int(((labels >= 0) & (labels < 80)).sum())


def rows_with_a_target(targets, _):
    return sum(int((target > 0).any(1).sum()) for target in targets)


# What docs/dense_heads.md says a head's rows are divided by, from its own loss's targets and from the rows' labels.
# The other heads' divisors are proved by their recomputed loss, in the test above, or by the tests below.
DIVISORS = (
    dict.fromkeys(("gfl", "ld", "fsaf", "ddod", "ghm", "yolox"), positives)
    | dict.fromkeys(("rtmdet", "rtmdet_ins", "tood"), target_qualities)
    | dict.fromkeys(("centernet", "centernet_update"), lambda *_: 6)  # the objects of the batch
    | dict(vfnet=rows_with_a_target, yolov3=lambda *_: 1, free_anchor=lambda *_: 6 * 50)
)


def test_divisor_and_weights_are_those_of_the_heads_own_loss(family):
    name, model, batch, _ = family
    if name not in DIVISORS:
        assert FAMILIES[name][3] or name in ("ssd", "yolact", "pisa_ssd", "autoassign", "cornernet", "centripetal")
        return
    head, calls = model.architecture.bbox_head, []
    losses = [m for key, m in head.named_children() if key.startswith("loss_cls")]
    hooks = [m.register_forward_pre_hook(lambda _, a, k: calls.append((a, k)), with_kwargs=True) for m in losses]
    (entry,) = run_step(model, batch).rows
    for hook in hooks:
        hook.remove()
    assert float(entry.avg_factor) == pytest.approx(DIVISORS[name]([a[1] for a, _ in calls], entry.labels))
    weights = [a[2] if len(a) > 2 else k.get("weight") for a, k in calls]
    if calls and all(w is not None for w in weights) and entry.weight is not None:
        own = torch.cat([w.flatten() for w in weights])
        own = own.view(len(entry.weight), -1).amax(1)  # one number per row, or one per class
        assert torch.equal(entry.weight, own)


@pytest.mark.slow
def test_autoassign_is_divided_by_its_center_priors():
    model, batch = zoo_pair(FAMILIES["autoassign"][0], (96, 96))
    priors = []
    model.architecture.bbox_head.center_prior.register_forward_hook(
        lambda m, a, out: priors.append(float(out[0].sum()))
    )
    (entry,) = run_step(model, batch).rows
    assert len(priors) == 2 and sum(priors) > 1
    assert float(entry.avg_factor) == pytest.approx(sum(priors), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cornernet", "centripetal"])
def test_a_heatmap_of_corners_is_divided_by_its_corners(name):
    path, size, *_ = FAMILIES[name]
    model, batch = zoo_pair(path, (size, size))
    calls = []
    model.architecture.bbox_head.loss_heatmap.register_forward_pre_hook(lambda m, a: calls.append(a[:2]))
    (entry,) = run_step(model, batch).rows
    # The head takes the mean of the losses of its two corners.
    own = [torch.full((p[:, 0].numel(),), 0.5 / max(1, int(target.eq(1).sum()))) for p, target in calls]
    torch.testing.assert_close(entry.weight, torch.cat(own))
    assert entry.avg_factor == 1 and int(calls[0][1].eq(1).sum()) > 1


def test_zero_scale_is_plain_mmdet(family):
    _, model, batch, _ = family
    model = perturbed_pair(model)
    model.distiller.scale = 0.0
    # Of the previous step, for a mask head; its tensors can't be copied.
    getattr(model.distiller.adapter.student, "_raw_positive_infos", {}).clear()
    ours, _, _ = beside_plain(model, batch)
    assert all(v == 0 for v in distillation(ours).values())


def test_one_student_forward_and_nothing_left_behind(family):
    _, model, batch, _ = family
    # mmdet's TOOD notes the epoch in its head at the first loss: a plain step first, whatever test ran before.
    model.architecture(**copy.deepcopy(batch), mode="loss")
    head = model.distiller.adapter.student
    before = traces(model, head)
    assert_leaves_nothing(model, batch, head)
    fail_in_the_teacher(model, batch)
    assert traces(model, head) == before


def test_images_without_objects(family):
    name, model, batch, _ = family
    model = perturbed_pair(model)
    batch = copy.deepcopy(batch)
    for sample in batch["data_samples"]:
        sample.gt_instances = sample.gt_instances[:0]
    step = run_step(model, batch)
    assert torch.isfinite(total(step.losses))
    assert set(step.distill) == {"distill.loss_tisd", "distill.loss_ntid"}
    if name == "yolox":
        assert len(step.rows[0].student) == 0
    total(step.losses).backward()
    model.zero_grad()


NEEDS_LABELS = [dict(rows="object"), dict(loss=dict(type="mmrazor.DKDLoss", activation="softmax"))]


@pytest.mark.parametrize("options", NEEDS_LABELS, ids=["rows", "DKD"])
def test_without_objects_yolox_has_no_rows_but_labels_for_them(options):
    model, batch = zoo_pair(FAST["yolox"][0], (96, 96))
    model = pair_of(model.architecture, model.teacher, **options).train()
    for sample in batch["data_samples"]:
        sample.gt_instances = sample.gt_instances[:0]
    step = run_step(model, batch)
    assert step.distill and all(v == 0 for v in step.distill.values())
    total(step.losses).backward()


@pytest.mark.parametrize("options", NEEDS_LABELS, ids=["rows", "DKD"])
@pytest.mark.parametrize("name", ["free_anchor", "vfnet", "centernet"])
def test_heads_without_labels_refuse_what_needs_them_before_the_training(name, options):
    model, _ = zoo_pair(FAMILIES[name][0], (96, 96))
    with pytest.raises(ValueError, match="needs one label for each row, and there is none: "):
        pair_of(model.architecture, model.teacher, **options)


@pytest.mark.parametrize("objects", [3, 0])
@pytest.mark.parametrize("loss", ["DISTLoss", "BCKDLoss"])
def test_controls_of_sigmoid_heads_train(loss, objects):
    model, batch = zoo_pair(FAST["retina"][0], (96, 96), objects=objects)
    options = dict(loss=dict(type=f"mmrazor.{loss}", activation="sigmoid"))
    model = pair_of(model.architecture, perturb(model.teacher, 0.02), **options).train()
    step = run_step(model, batch)
    assert all(torch.isfinite(v) and v > 0 for v in step.distill.values()) and step.distill
    total(step.losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("epoch", [0, 9])
def test_tood_is_divided_by_what_its_own_loss_is(epoch):
    model, batch = zoo_pair(FAST["tood"][0], (96, 96), epoch=epoch)
    step = run_step(model, batch)
    (entry,) = step.rows
    head = model.architecture.bbox_head
    if epoch < head.initial_epoch:
        score = entry.student.sigmoid()
        again = head.initial_loss_cls(score, entry.labels, entry.weight, avg_factor=entry.avg_factor)
        torch.testing.assert_close(again, total({"loss": step.losses["loss_cls"]}), rtol=1e-4, atol=1e-5)
    else:
        positives = (entry.labels < 80).sum()
        assert entry.avg_factor != positives  # qualities, not counts


@pytest.mark.parametrize("name", fast_if(["ssd"], ["retina", "fcos", "yolof", "ssd"]))
def test_mixed_precision(name):
    path, size, _, _ = FAST[name]
    model, batch = zoo_pair(path, (size, size))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = run_step(model, batch)
    (entry,) = step.rows
    assert torch.equal(entry.student, entry.teacher)
    assert all(v == 0 for v in step.distill.values())
    total(step.losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_yolact_without_mining_is_refused():
    config = tiny_config(f"mmdet::{SLOW['yolact'][0]}")
    config.bbox_head.use_ohem = False
    student = build_random(config)
    model = pair_of(student, copy.deepcopy(student))
    with pytest.raises(RuntimeError, match="use_ohem"):
        model(**tiny_batch(student, (96, 96)), mode="loss")


def test_flatten_maps_puts_the_anchors_of_a_cell_side_by_side():
    maps = [torch.arange(2 * 6 * 2 * 3.0).view(2, 6, 2, 3), torch.arange(2 * 6 * 4.0).view(2, 6, 2, 2) + 100]
    assert torch.equal(flatten_maps(maps, 3, "level"), level_major(maps, 3))
    assert torch.equal(flatten_maps(maps, 3, "image"), image_major(maps, 3))
    uneven = [maps[0], maps[1][:, :3]]  # two anchors per cell, then one
    assert torch.equal(flatten_maps(uneven, 3, "level"), level_major(uneven, 3))
    assert torch.equal(flatten_maps(uneven, 3, "image"), image_major(uneven, 3))


def test_joint_logit_is_that_of_the_product():
    c, o = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(joint_logits(c, o).sigmoid().double(), c.sigmoid() * o.sigmoid(), atol=1e-6, rtol=1e-5)
    assert torch.isfinite(joint_logits(torch.tensor([1e4, -1e4]), torch.tensor([1e4, -1e4]))).all()


# Student and teacher of different classes.


def detector(name, **head):
    config = tiny_config(f"mmdet::{FAMILIES[name][0]}")
    config.bbox_head.update(head)
    return build_random(config)


@pytest.mark.parametrize(("student", "teacher"), [("atss", "gfl"), ("fcos", "atss"), ("gfl", "fcos")])
def test_heads_of_other_classes_work_where_strides_and_priors_agree(student, teacher):
    student, teacher = detector(student), detector(teacher)
    teacher.eval()
    model = pair_of(student, teacher)
    step = run_step(model, tiny_batch(student, (96, 96)))
    (entry,) = step.rows
    head = teacher.bbox_head
    with torch.no_grad():
        assert torch.equal(entry.teacher, level_major(head(tuple(step.feats))[0], 80))
    assert all(torch.isfinite(v) and v > 0 for v in step.distill.values())


@pytest.mark.parametrize(
    ("student", "teacher", "options", "says"),
    [
        ("retina", "gfl", {}, r"(?s)9 priors per location.*1 prior per location"),
        ("atss", "rtmdet", {}, r"strides \(8, 16, 32, 64, 128\).*strides \(8, 16, 32\)"),
        ("rtmdet", "yolox", {}, "objectness"),
        ("atss", "gfl", dict(num_classes=20), "num_classes=80.*num_classes=20"),
    ],
)
def test_heads_that_do_not_fit_are_refused_with_the_numbers(student, teacher, options, says):
    with pytest.raises(ValueError, match=says):
        build_adapter(detector(student), detector(teacher, **options))


def test_anchors_of_other_shapes_are_refused():
    teacher = tiny_config(f"mmdet::{FAST['retina'][0]}")
    teacher.bbox_head.anchor_generator.octave_base_scale = 8
    with pytest.raises(ValueError, match="anchor_generator"):
        build_adapter(detector("retina"), build_random(teacher))


def test_other_kinds_of_heads_are_refused():
    with pytest.raises(TypeError, match="RetinaHead"):
        build_adapter(
            detector("retina"), build_random(tiny_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"))
        )
    with pytest.raises(TypeError, match="CenterNetHead"):
        build_adapter(detector("centernet"), detector("retina"))


def test_the_pairing_is_described_in_a_line():
    line = build_adapter(detector("retina"), detector("retina")).describe()
    for part in ("RetinaHead <- RetinaHead", "anchors", "80 classes", "80 logits per row", "sigmoid"):
        assert part in line
    softmax = tiny_config(f"mmdet::{FAST['retina'][0]}")
    softmax.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=False)
    line = build_adapter(build_random(softmax), build_random(softmax)).describe()
    assert "80 classes, 81 logits per row, softmax" in line


def test_class_weight_of_a_softmax_head_belongs_to_its_rows():
    config = tiny_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    weights = torch.linspace(0.1, 3.0, 81)
    config.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=False, class_weight=weights.tolist())
    model = pair_of(build_random(config), build_random(config))
    step = run_step(model, tiny_batch(model.architecture))
    (entry,) = step.rows
    assert entry.meaning.background == 80
    cost = torch.nn.functional.cross_entropy(entry.student, entry.labels, reduction="none") * entry.weight
    torch.testing.assert_close(cost.sum() / entry.avg_factor, sum(step.losses["loss_cls"]))
