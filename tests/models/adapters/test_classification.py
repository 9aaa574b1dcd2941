"""Heads that classify whole images: student and teacher see the same pictures, mixed ones included."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmpretrain.engine.hooks import SwitchRecipeHook
from mmrazor.registry import MODELS
from one_step import assert_no_pull, distillation, run_step
from tiny import forward_hooks, perturb, total
from tiny_classifiers import MODELS_BY_HEAD, NUM_CLASSES, batch, classifier, config, distilled, pair

MIXING = dict(
    mixup=dict(type="Mixup", alpha=0.8), cutmix=dict(type="CutMix", alpha=1.0), resize=dict(type="ResizeMix", alpha=1.0)
)
HEADS = sorted(set(MODELS_BY_HEAD) - {"ArcFaceClsHead"})
SIGMOID = ("MultiLabelClsHead", "MultiLabelLinearClsHead", "CSRAClsHead")


@pytest.fixture(params=HEADS)
def head(request):
    return request.param


def seed(number):
    torch.manual_seed(number)
    np.random.seed(number)  # MMPretrain's mixing draws from both


def labels_for(head):
    return 3 if head in SIGMOID else 1


def moved_teacher(head="LinearClsHead", **kwargs):
    return perturb(classifier(config(head, **kwargs)), 0.2)


def test_an_equal_teacher_gives_equal_rows_and_no_loss(head):
    model = pair(head)
    step = run_step(model, batch(model, labels=labels_for(head)))
    assert [r.tag for r in step.rows] == (["conv", "trans"] if head == "ConformerHead" else [""])
    for entry in step.rows:
        assert entry.student.shape == entry.teacher.shape == (6, NUM_CLASSES)
        assert torch.equal(entry.student, entry.teacher)
        assert entry.teacher.std() > 0.01
        assert not entry.teacher.requires_grad
        assert (entry.labels is None) == (head in SIGMOID)
    assert_no_pull(model, step.distill)


def test_another_teacher_answers_with_its_own_weights(head):
    model = pair(head, teacher=moved_teacher(head))
    data = batch(model, labels=labels_for(head))
    step = run_step(model, data)
    with torch.no_grad():
        by_hand = model.teacher(data["inputs"], mode="tensor")
    for logits, entry in zip([by_hand] if torch.is_tensor(by_hand) else by_hand, step.rows, strict=True):
        assert torch.equal(logits, entry.teacher)
        assert not torch.allclose(entry.student, entry.teacher, atol=1e-3)
    assert all(torch.isfinite(v) and v > 0 for v in step.distill.values())


@pytest.mark.parametrize("mixing", [None, *MIXING])
def test_zero_weight_is_plain_mmpretrain(head, mixing):
    augments = dict(batch_augments=dict(augments=[MIXING[mixing]])) if mixing else {}
    model = pair(head, dict(type="ReKDLoss", top_k=3, loss_weight=0.0), moved_teacher(head), **augments)
    plain = copy.deepcopy(model.architecture)
    seed(5)
    ours = model(**batch(model, labels=labels_for(head)), mode="loss")
    seed(5)
    theirs = plain(**batch(plain, labels=labels_for(head)), mode="loss")
    assert torch.equal(ours["loss_cls"], theirs["loss"])
    assert "loss" not in ours
    total(ours).backward()
    theirs["loss"].backward()
    for (name, p), q in zip(plain.named_parameters(), model.architecture.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name


@pytest.mark.parametrize("mixing", MIXING)
def test_both_networks_see_the_mixed_images(mixing):
    augments = dict(batch_augments=dict(augments=[MIXING[mixing]]))
    model = pair(teacher=moved_teacher(), **augments)
    seen = []
    for network in (model.architecture, model.teacher):
        network.backbone.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    seed(3)
    data = batch(model)
    seed(3)
    mixed = batch(pair())["inputs"]
    rows = run_step(model, data).rows
    assert torch.equal(*seen)
    assert not torch.equal(seen[0], mixed)
    assert rows[0].labels is None
    assert data["data_samples"][0].gt_score.max() <= 1


def test_a_teacher_with_another_normalisation_gets_the_mixed_images_as_it_knows_them():
    """Mixing and a change of mean, std and channel order may change places."""
    other = dict(mean=[0.5, 0.4, 0.3], std=[1.0, 2.0, 3.0], to_rgb=False)
    teacher_config = config()
    teacher_config.data_preprocessor.update(other)
    augments = dict(batch_augments=dict(augments=[MIXING["mixup"]]))
    model = pair(teacher=classifier(teacher_config), **augments)
    teacher_config.data_preprocessor.update(augments)
    trained_as = classifier(teacher_config)
    seed(7)
    data = batch(model)
    seed(7)
    want = batch(trained_as)["inputs"]
    got = model._teacher_input(data["inputs"], data["data_samples"])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


def test_one_hot_scores_that_nothing_mixed_keep_their_labels():
    one_hot = config(to_onehot=True)
    one_hot.head.loss = dict(type="CrossEntropyLoss", use_soft=True)
    model = distilled(classifier(one_hot), moved_teacher(), dict(type="DKDLoss"))
    data = batch(model)
    step = run_step(model, data)
    assert step.rows[0].labels.tolist() == [int(s.gt_label) for s in data["data_samples"]]
    assert step.losses["distill.loss_nckd"] > 0


def test_dkd_refuses_soft_labels_before_training():
    augments = dict(batch_augments=dict(augments=[MIXING["mixup"], MIXING["cutmix"]]))
    with pytest.raises(ValueError, match=r"DKDLoss.*Mixup, CutMix .*mixes the labels of two images"):
        pair(loss=dict(type="DKDLoss"), **augments)
    with pytest.raises(ValueError, match=r"DKDLoss.*several labels"):
        pair("CSRAClsHead", loss=dict(type="DKDLoss", activation="softmax"))


@pytest.mark.parametrize("options", [dict(loss=dict(type="DKDLoss")), dict(loss=dict(type="KDLoss"), rows="object")])
def test_mixing_in_the_pairs_own_preprocessor_is_refused_too(options):
    """It would mix the batch, and the rows would keep the labels that the images had before."""
    mixing = dict(batch_augments=dict(augments=[MIXING["mixup"]]))
    preprocessor = dict(type="mmpretrain.ClsDataPreprocessor", num_classes=NUM_CLASSES, **mixing)
    distiller = dict(type="mmrazor.ReKDDistiller", **options)
    parts = dict(architecture=config(), teacher=moved_teacher(), data_preprocessor=preprocessor, distiller=distiller)
    with pytest.raises(ValueError, match=r"Mixup .*mixes the labels of two images"):
        MODELS.build(dict(type="mmrazor.ReKDDistill", **parts))


def test_rows_by_label_need_labels_too():
    student = classifier(config(batch_augments=dict(augments=[MIXING["mixup"]])))
    with pytest.raises(ValueError, match=r"rows='object'.*Mixup"):
        distilled(student, copy.deepcopy(student), rows="object")


@pytest.mark.parametrize("kind", ["KDLoss", "GDKDLoss", "ReKDLoss"])
def test_other_losses_take_soft_labels(kind):
    model = pair(loss=dict(type=kind), teacher=moved_teacher(), batch_augments=dict(augments=[MIXING["mixup"]]))
    assert all(v > 0 for v in distillation(model(**batch(model), mode="loss")).values())


def test_mmpretrains_hook_switches_the_students_loss_and_nothing_else():
    model = pair(teacher=moved_teacher())
    data = batch(model)
    before = model(**data, mode="loss")
    hook = SwitchRecipeHook([dict(action_epoch=1, loss=dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.3))])
    hook.before_train_epoch(SimpleNamespace(model=model, epoch=0, logger=MMLogger.get_current_instance()))
    after = model(**data, mode="loss")
    assert not torch.isclose(before.pop("loss_cls"), after.pop("loss_cls"))
    assert before == after


def test_arcface_is_refused_by_name():
    student = classifier(config("ArcFaceClsHead"))
    with pytest.raises(TypeError, match=r"student's ArcFaceClsHead is not supported: .*margin"):
        distilled(student, copy.deepcopy(student))


def test_a_head_of_ones_own_is_refused_with_the_way_out():
    from mmpretrain.models import LinearClsHead

    class OwnHead(LinearClsHead):
        pass

    student = classifier(config())
    student.head.__class__ = OwnHead
    with pytest.raises(TypeError, match=r"student's OwnHead is not supported.*LinearClsHead.*register_adapter"):
        distilled(student, copy.deepcopy(student))


def test_other_classes_are_refused():
    other = config()
    other.head.num_classes = 7
    with pytest.raises(ValueError, match=r"num_classes=10.*num_classes=7"):
        pair(teacher=classifier(other))


def test_sigmoids_and_one_label_do_not_mix():
    with pytest.raises(TypeError, match="classify different kinds of rows"):
        pair(teacher=classifier(config("MultiLabelLinearClsHead")))


@pytest.mark.parametrize("head", ["LeViTClsHead", "EfficientFormerClsHead"])
def test_a_student_that_mmpretrain_can_not_train_is_refused(head):
    model = config(head)
    model.head.distillation = True
    student = classifier(model)
    with pytest.raises(ValueError, match=r"head.distillation=False"):
        distilled(student, copy.deepcopy(student))
    plain = classifier(config(head))
    assert distillation(distilled(plain, student)(**batch(plain), mode="loss"))  # as a teacher it serves


@pytest.mark.parametrize(
    ("student", "teacher"), [("LinearClsHead", "VisionTransformerClsHead"), ("ConformerHead",) * 2]
)
def test_single_label_heads_teach_each_other(student, teacher):
    for a, b in ((student, teacher), (teacher, student)):
        model = pair(a, teacher=moved_teacher(b))
        assert all(v > 0 for v in distillation(model(**batch(model), mode="loss")).values())


def test_a_conformer_teaches_others_by_what_it_predicts():
    model = pair(teacher=moved_teacher("ConformerHead"))
    data = batch(model)
    rows = run_step(model, data).rows
    with torch.no_grad():
        conv, trans = model.teacher(data["inputs"], mode="tensor")
    assert torch.equal(rows[0].teacher, conv + trans)


def test_bce_trained_classifiers_are_distilled_as_such():
    """A softmax teacher's logits have no offset to take a sigmoid of, so both must be trained with sigmoids."""
    sigmoid = config()
    sigmoid.head.loss = dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original", use_sigmoid=True)
    both = distilled(classifier(sigmoid), classifier(sigmoid))
    assert both.distiller.loss.activation == "sigmoid"
    one = distilled(classifier(sigmoid), classifier(config()))
    assert one.distiller.loss.activation == "softmax"


def test_nothing_is_left_behind():
    model = pair()
    before = forward_hooks(model.architecture)
    model(**batch(model), mode="loss")
    assert forward_hooks(model.architecture) == before
    assert not model.distiller.adapter._calls


def test_every_image_is_an_object():
    """No class of an image classifier is a background, so each image counts, and alike."""
    student = classifier(config())
    model = distilled(student, moved_teacher(), rows="object")
    losses = model(**batch(model), mode="loss")
    reference = distilled(student, model.teacher)(**batch(model), mode="loss")
    for name, value in distillation(losses).items():
        torch.testing.assert_close(value, reference[name])
    with pytest.raises(ValueError, match=r"every row holds an object"):
        distilled(student, model.teacher, rows="teacher")


@pytest.mark.slow
def test_nothing_imports_the_adapters_before_they_are_needed():
    code = "import sys, rekd_det; assert not [m for m in sys.modules if m.startswith('rekd_det.models.adapters.image')]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_package_works_without_mmpretrain():
    code = (
        "import sys; sys.modules['mmpretrain'] = None; import rekd_det; from rekd_det.models.adapters import ADAPTERS"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
