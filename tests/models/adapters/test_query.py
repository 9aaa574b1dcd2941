"""Query heads: the teacher answers about the student's queries, shared or matched.

Dropout is off in these detectors (see tiny_queries.py).
"""

import copy

import pytest
import torch
from fast_cases import fast_if
from mmdet.models.dense_heads import ATSSVLFusionHead, GroundingDINOHead
from one_step import assert_no_pull, assert_same_gradients, beside_plain, distillation, fail_in_the_teacher, run_step
from tiny import NUM_CLASSES, batch, build, build_pair, forward_hooks, perturb, tiny_rcnn, total
from tiny_queries import FAMILIES, LAYERS, MASK, PANOPTIC, QUERIES, RCNN, SHARED, tiny_query
from torch.utils._python_dispatch import TorchDispatchMode

from rekd_det.models.adapters import ADAPTERS, build_adapter
from rekd_det.models.adapters.base import find_adapter
from rekd_det.models.adapters.query.ddq import _rows_of

MATCHED = [f for f in FAMILIES if f not in SHARED]
SOFTMAX = ("detr", *MASK)
FAST = ("detr", "deformable", "dino", "ddq", "sparse_rcnn", "mask2former")
#: torch computes attention by another kernel where no weight is trained, and products of another length round otherwise
TOLERANCE = 1e-5


def data_for(model, family, **kwargs):
    masks = family in MASK or family == "queryinst"
    return batch(model, with_mask=masks, with_semantic=family in PANOPTIC, **kwargs)


def own_predictions(family, detector, feats, samples):
    """What the detector says about its own queries, by layer: ``(B, R, C)`` logits."""
    if family in MASK:
        return detector.panoptic_head(feats, samples)[0]
    if family not in RCNN:
        return detector.bbox_head(**detector.forward_transformer(feats, samples))[0]
    from mmdet.structures.bbox import bbox2roi

    out, proposals = [], detector.rpn_head.predict(feats, samples)
    boxes, content = [p.bboxes for p in proposals], torch.stack([p.features for p in proposals])
    for stage in range(LAYERS):
        metas = [s.metainfo for s in samples]
        result = detector.roi_head._bbox_forward(stage, feats, bbox2roi(boxes), content, metas)
        boxes, content = result["detached_proposals"], result["object_feats"]
        out.append(result["cls_score"])
    return out


def learned_queries(detector):
    """The embeddings that make a detector's learned queries, one row per query."""
    names = ("query_embedding", "query_embed", "query_feat", "init_proposal_bboxes", "init_proposal_features")
    return [m for n, m in detector.named_modules() if n.rsplit(".", 1)[-1] in names]


def assert_same(entry, tolerance=TOLERANCE):
    """Equal networks say the same about the same rows."""
    torch.testing.assert_close(entry.teacher, entry.student, atol=tolerance, rtol=tolerance)


@pytest.fixture(params=fast_if(FAST, FAMILIES), scope="module")
def family(request):
    return request.param, tiny_query(request.param)


def test_identical_teacher_gives_equal_rows_and_no_loss(family):
    name, config = family
    model = build_pair(config)
    step = run_step(model, data_for(model, name))
    layers = LAYERS + name.startswith("mask2former")
    stage = "s" if name in RCNN else "d"
    assert [r.tag for r in step.rows] == [f"{stage}{i}" for i in range(layers)]
    for entry in step.rows:
        assert entry.student.shape == entry.teacher.shape == (2 * QUERIES, NUM_CLASSES + (name in SOFTMAX))
        assert_same(entry)
        assert entry.student.requires_grad and not entry.teacher.requires_grad
        assert entry.meaning.activation == ("softmax" if name in SOFTMAX else "sigmoid")
    assert len(step.distill) == 2 * layers
    assert_no_pull(model, step.distill, tolerance=TOLERANCE)


def test_rows_are_weighted_as_the_heads_own_loss(family):
    name, config = family
    model = build_pair(config, teacher=perturb(build(config)))
    rows = run_step(model, data_for(model, name)).rows
    for entry in rows:
        objects = entry.labels < NUM_CLASSES
        background = 0.1 if name in SOFTMAX else 1.0
        torch.testing.assert_close(entry.weight, torch.where(objects, 1.0, background))
        normaliser = entry.weight.sum() if name in SOFTMAX else objects.sum()
        torch.testing.assert_close(torch.as_tensor(entry.avg_factor).float().squeeze(), normaliser.float())
    assert [r.loss_weight for r in rows] == ([1.0, 0.5] if name in RCNN else [1.0] * len(rows))


def test_other_teacher_gives_finite_losses_and_gradients(family):
    name, config = family
    model = build_pair(config, teacher=perturb(build(config)))
    step = run_step(model, data_for(model, name))
    for entry in step.rows:
        assert not torch.allclose(entry.student, entry.teacher, atol=1e-3)
    assert all(torch.isfinite(v) and v > 0 for v in step.distill.values())
    total(step.distill).backward()
    gradients = {k: p.grad for k, p in model.architecture.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    for part in ("backbone", "decoder", "cls") if name not in RCNN else ("backbone", "fc_cls"):
        assert any(part in k and g.abs().max() > 0 for k, g in gradients.items()), part
    assert not any(p.requires_grad or p.grad is not None for p in model.teacher.parameters())


@pytest.mark.parametrize("name", fast_if(FAST, MATCHED))
def test_matched_teacher_rows_are_its_own_predictions(name):
    config = tiny_query(name)
    model = build_pair(config, teacher=perturb(build(config)))
    data = data_for(model, name)
    rows = run_step(model, data).rows
    with torch.no_grad():
        feats = model.teacher.extract_feat(data["inputs"])
        by_hand = own_predictions(name, model.teacher, feats, data["data_samples"])
    for entry, want in zip(rows, by_hand, strict=True):
        for got, own in zip(entry.teacher.view(2, QUERIES, -1), want, strict=True):
            distance = torch.cdist(got, own, p=1)
            assert distance.min(1).values.max() < 1e-4
            assert sorted(distance.argmin(1).tolist()) == list(range(QUERIES))


@pytest.mark.parametrize("name", fast_if(FAST, MATCHED))
def test_matching_finds_the_teachers_order(name):
    """A teacher that is the student with its queries shuffled says the same in another order."""
    config = tiny_query(name)
    student = perturb(build(config), scale=0.2)
    teacher = copy.deepcopy(student)
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(3))
    queries = learned_queries(teacher)
    assert queries
    for embedding in queries:
        embedding.weight.data = embedding.weight.data[order]
    model = build_pair(config, teacher=teacher)
    model.architecture.load_state_dict(student.state_dict())
    rows = run_step(model, data_for(model, name)).rows
    for entry in rows:
        torch.testing.assert_close(entry.teacher, entry.student, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", fast_if(FAST, MATCHED))
@pytest.mark.parametrize("queries", [QUERIES - 3, QUERIES + 3])
def test_numbers_of_learned_queries_may_differ(name, queries):
    config = tiny_query(name)
    model = build_pair(config, teacher=build(tiny_query(name, queries=queries)))
    step = run_step(model, data_for(model, name))
    assert all(len(r.student) == len(r.teacher) == len(r.labels) == 2 * min(QUERIES, queries) for r in step.rows)
    total(step.losses).backward()


@pytest.mark.parametrize("name", SHARED)
def test_shared_teacher_decodes_the_matching_queries_alone(name):
    model = build_pair(tiny_query(name))
    decoded = {}
    for role, detector in (("student", model.student), ("teacher", model.teacher)):
        detector.decoder.register_forward_hook(
            lambda m, a, k, o, role=role: decoded.update({role: k["query"].shape[1]}), with_kwargs=True
        )
    model(**data_for(model, name), mode="loss")
    assert decoded["teacher"] == QUERIES
    assert (decoded["student"] > QUERIES) == (name != "two_stage")  # denoising and dense queries


@pytest.mark.parametrize("name", SHARED)
def test_shared_teacher_decodes_the_students_places_with_its_own_weights(name):
    config = tiny_query(name)
    model = build_pair(config, teacher=perturb(build(config)))
    data = data_for(model, name)
    seen = {}
    decoder = model.student.decoder.register_forward_hook(lambda m, a, k, o: seen.update(k), with_kwargs=True)
    rows = run_step(model, data).rows
    decoder.remove()
    teacher, samples = model.teacher, data["data_samples"]
    places = seen["reference_points"]
    if name == "ddq":  # dense and denoising queries are invisible to the distinct ones: leave them out
        start, count = model.student.cache_dict["dis_query_info"]
    else:
        start, count = places.shape[1] - QUERIES, QUERIES
    places = places[:, start : start + count]
    with torch.no_grad():
        encoder_in, decoder_in = teacher.pre_transformer(teacher.extract_feat(data["inputs"]), samples)
        memory = teacher.forward_encoder(**encoder_in)["memory"]
        if name == "two_stage":
            sine = model.student.get_proposal_pos_embed(places.logit())
            position, content = teacher.pos_trans_norm(teacher.pos_trans_fc(sine)).chunk(2, dim=2)
            queries = dict(query=content, query_pos=position)
        elif name == "dino":
            queries = dict(query=teacher.query_embedding.weight.expand(2, -1, -1), dn_mask=None)
        else:
            queries = dict(query=ddq_content(model, data, memory, seen["query"][:, start : start + count]))
            queries["dn_mask"] = None
            teacher.cache_dict["dis_query_info"] = [0, count]
            # No selection: with two layers, the second one would otherwise see the teacher's own.
            teacher.decoder.select_distinct_queries = lambda points, query, mask, layer: mask
        hidden = teacher.forward_decoder(memory=memory, reference_points=places, **queries, **decoder_in)
        by_hand = [teacher.bbox_head.cls_branches[i](h) for i, h in enumerate(hidden["hidden_states"])]
    for entry, want in zip(rows, by_hand, strict=True):
        torch.testing.assert_close(entry.teacher, want.flatten(0, 1), atol=1e-4, rtol=1e-4)


def ddq_content(model, data, memory, query):
    """The teacher's feature at the points that the student's queries came from, found by comparing features."""
    student = model.student
    with torch.no_grad():
        encoder_in, _ = student.pre_transformer(student.extract_feat(data["inputs"]), data["data_samples"])
        mapped = student.query_map(student.forward_encoder(**encoder_in)["memory"])
    index = torch.cdist(query.detach(), mapped, compute_mode="donot_use_mm_for_euclid_dist").argmin(2)
    own = model.teacher.query_map(memory)
    return torch.stack([own[i, index[i]] for i in range(len(index))])


def ddq_that_drops():
    """A DDQ config and a student whose boxes overlap enough for some to be dropped after the second layer."""
    config = tiny_query("ddq")
    config.dqs_cfg.iou_threshold = 0.3
    config.decoder.num_layers = 3
    return config, perturb(build(config), scale=0.4)


def test_ddq_compares_the_queries_that_the_student_kept():
    config, student = ddq_that_drops()
    model = build_pair(config, teacher=copy.deepcopy(student))
    model.architecture.load_state_dict(student.state_dict())
    step = run_step(model, data_for(model, "ddq"))
    assert 2 * QUERIES == len(step.rows[0].student) > len(step.rows[2].student) > 2
    for entry in step.rows:
        assert_same(entry, tolerance=1e-3)  # such large weights blow rounding up
    assert all(v < TOLERANCE for v in step.distill.values())
    assert "select_distinct_queries" not in vars(model.teacher.decoder)


def test_ddq_finds_the_kept_queries_without_waiting_for_the_device():
    config, student = ddq_that_drops()
    model = build_pair(config, teacher=copy.deepcopy(student))
    model.architecture.load_state_dict(student.state_dict())
    align, waited, kept = model.distiller.adapter.align, [], []

    class Waits(TorchDispatchMode):
        """Operators the size of whose result is known only when the device has arrived there."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            by_mask = func is torch.ops.aten.index.Tensor and any(
                x is not None and x.dtype == torch.bool for x in args[1]
            )
            if by_mask or any(name in str(func) for name in ("nonzero", "masked_select")):
                waited.append(str(func))
            return func(*args, **(kwargs or {}))

    def watched(*args):
        found = align(*args)
        with Waits():  # of a later step
            kept.extend(len(entry.student) for entry in align(*args))
        return found

    model.distiller.adapter.align = watched
    model(**data_for(model, "ddq"), mode="loss")
    assert min(kept) < max(kept), "nothing was dropped"
    assert not waited


def test_ddq_teacher_takes_over_the_students_selection():
    config, student = ddq_that_drops()
    model = build_pair(config, teacher=perturb(build(config), scale=0.4, seed=2))
    model.architecture.load_state_dict(student.state_dict())
    masks = {}
    for role, detector in (("student", model.student), ("teacher", model.teacher)):
        detector.decoder.layers[2].register_forward_hook(
            lambda m, a, k, o, role=role: masks.update({role: k["self_attn_mask"]}), with_kwargs=True
        )
    model(**data_for(model, "ddq"), mode="loss")
    start, count = model.student.cache_dict["dis_query_info"]
    distinct = slice(start, start + count)
    assert torch.equal(masks["student"][:, distinct, distinct], masks["teacher"])
    assert masks["teacher"].any()


def test_zero_weight_is_plain_mmdet_bit_for_bit(family):
    name, config = family
    model = build_pair(config, loss=dict(type="ReKDLoss", top_k=3, loss_weight=0.0), teacher=perturb(build(config)))
    after = []
    model.register_forward_hook(lambda *_: after.append(torch.rand(1)))
    ours, plain, theirs = beside_plain(model, data_for(model, name))
    assert torch.equal(*after, torch.rand(1))  # the adapter draws no random numbers
    assert_same_gradients(ours, model, theirs, plain)


def test_the_student_runs_once_and_the_teacher_only_classifies(family):
    name, config = family
    model = build_pair(config)
    ran, student_runs = set(), []
    for module_name, module in model.teacher.named_modules():
        module.register_forward_hook(lambda *_, n=module_name: ran.add(n))
    model.student.backbone.register_forward_hook(lambda *_: student_runs.append(1))
    model(**data_for(model, name), mode="loss")
    assert student_runs == [1]
    assert "backbone" in ran
    wasted = ["loss_", "mask_head", "mask_roi_extractor", "dn_query_generator"]
    if name in SHARED:  # the encoder's proposals are the student's
        wasted += [f"cls_branches.{LAYERS}", f"reg_branches.{LAYERS}"]
    assert not [n for n in ran if any(w in n for w in wasted)]


@pytest.mark.parametrize("name", fast_if(FAST, RCNN))
def test_the_students_boxes_are_decoded_once(name, monkeypatch):
    model = build_pair(tiny_query(name))
    data, decoded = data_for(model, name), []
    for head in model.student.roi_head.bbox_head:
        coder = head.bbox_coder
        monkeypatch.setattr(
            coder, "decode", lambda *a, own=coder.decode, **k: decoded.append(own(*a, **k)) or decoded[-1]
        )
    model.architecture(**copy.deepcopy(data), mode="loss")
    alone = len(decoded)
    model(**data, mode="loss")
    assert len(decoded) == 2 * alone > 0


def test_nothing_is_left_behind_even_when_the_step_raises(family):
    name, config = family
    model = build_pair(config)
    data = data_for(model, name)
    before = forward_hooks(model.architecture)

    def nothing_held():
        adapter = model.distiller.adapter
        held = [adapter._targets, getattr(adapter, "_output", None), *getattr(adapter, "_stages", [])]
        shared = getattr(adapter, "_shared", None)
        held += [] if shared is None else [shared.places]
        return not any(held)

    model(**copy.deepcopy(data), mode="loss")
    assert forward_hooks(model.architecture) == before
    assert nothing_held()
    fail_in_the_teacher(model, data)
    assert forward_hooks(model.architecture) == before
    assert nothing_held()
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_images_without_objects(family):
    name, config = family
    model = build_pair(config, teacher=perturb(build(config)))
    losses = model(**data_for(model, name, num_items=(0, 0)), mode="loss")
    distill = distillation(losses)
    assert all(torch.isfinite(v) and v > 0 for v in distill.values())
    assert max(distill.values()) < 1e4
    total(distill).backward()


def test_an_image_without_objects_beside_one_with(family):
    name, config = family
    model = build_pair(config)
    step = run_step(model, data_for(model, name, num_items=(0, 3)))
    for entry in step.rows:
        assert_same(entry)
    assert all(v < TOLERANCE for v in step.distill.values())


def of_five_levels(family):
    config = tiny_query(family)
    config.num_feature_levels = config.neck.num_outs = 5
    for part in (config.encoder.layer_cfg.self_attn_cfg, config.decoder.layer_cfg.cross_attn_cfg):
        part.num_levels = 5
    return config


def test_levels_and_widths_of_a_dino_pair_may_differ():
    larger = of_five_levels("dino")
    larger.num_queries = QUERIES + 5
    model = build_pair(tiny_query("dino"), teacher=build(larger))
    step = run_step(model, data_for(model, "dino"))
    assert "the student's queries" in model.distiller.adapter.describe()
    assert all(len(r.teacher) == 2 * QUERIES for r in step.rows)
    total(step.losses).backward()


@pytest.mark.parametrize("student,teacher", [("deformable", "dino"), ("dino", "dab"), ("two_stage", "refine")])
def test_different_kinds_of_detectors_are_matched(student, teacher):
    model = build_pair(tiny_query(student), teacher=build(tiny_query(teacher)))
    assert "matched" in model.distiller.adapter.describe()
    step = run_step(model, data_for(model, student))
    assert all(r.student.shape == r.teacher.shape == (2 * QUERIES, NUM_CLASSES) for r in step.rows)
    total(step.losses).backward()


def test_ddq_finds_its_queries_where_autocast_made_the_features_narrower():
    table = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    wanted = torch.tensor([7, 0, 39])
    rows = torch.cat([table[wanted].float(), torch.full((1, 8), 2.0)])  # the last one is padding
    index, found = _rows_of(table, rows)
    assert found.tolist() == [True, True, True, False]
    assert torch.equal(index[:3], wanted)


def test_ddq_needs_the_same_points():
    model = build_pair(tiny_query("ddq"), teacher=build(of_five_levels("ddq")))
    with pytest.raises(ValueError, match="num_feature_levels"):
        model(**data_for(model, "ddq"), mode="loss")


def test_pairs_that_do_not_fit_are_refused():
    detr, dab = build(tiny_query("detr")), build(tiny_query("dab"))
    with pytest.raises(ValueError, match=r"softmax.*sigmoid"):
        build_adapter(detr, dab)
    deeper = tiny_query("dab")
    deeper.decoder.num_layers = 3
    with pytest.raises(ValueError, match=r"queries 2 times, the teacher 3"):
        build_adapter(dab, build(deeper))
    more = tiny_query("dab")
    more.bbox_head.num_classes = NUM_CLASSES + 1
    with pytest.raises(ValueError, match="num_classes"):
        build_adapter(dab, build(more))
    with pytest.raises(TypeError, match="StandardRoIHead"):
        build_adapter(dab, build(tiny_rcnn()))


def test_heads_without_fixed_classes_are_refused_with_the_reason():
    for head in (ATSSVLFusionHead, GroundingDINOHead):
        with pytest.raises(TypeError, match=f"{head.__name__} is not supported: .*the words of a prompt"):
            find_adapter(head, head)


def test_a_subclass_nobody_looked_at_is_refused():
    from mmdet.models.dense_heads import DINOHead

    class Unknown(DINOHead):
        pass

    assert Unknown not in ADAPTERS
    detector = build(tiny_query("dino"))
    detector.bbox_head.__class__ = Unknown
    with pytest.raises(TypeError, match="Unknown is not supported"):
        build_adapter(detector, build(tiny_query("dino")))
