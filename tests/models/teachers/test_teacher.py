"""The frozen teacher: built, loaded, fed."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.runner.checkpoint import CheckpointLoader
from tiny import NUM_CLASSES, batch, build, build_pair, perturb, tiny_rcnn

from rekd_det.models.teachers.teacher import TeacherInput, build_teacher
from rekd_det.utils.errors import CheckpointError

CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny teacher's config and checkpoint, as mmdet 2's zoo writes them."""
    config = tiny_rcnn()
    model = perturb(build(config))
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    meta = dict(CLASSES=tuple("abcdef"))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return config, str(path), model


def test_loaded_and_frozen(saved):
    config, path, original = saved
    teacher, classes = build_teacher(config, path)
    assert classes == tuple("abcdef")
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), original.state_dict().values(), strict=True)
    )
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize(
    "meta",
    [torch.zeros(3), "text", dict(dataset_meta="text"), dict(dataset_meta=torch.zeros(3)), dict(CLASSES=torch.ones(2))],
    ids=["tensor", "text", "text inside", "tensor inside", "names"],
)
def test_a_meta_that_is_not_sound_names_no_categories(saved, tmp_path, meta):
    config, path, _ = saved
    odd = tmp_path / "odd.pth"
    torch.save({**torch.load(path, weights_only=True), "meta": meta}, odd)
    _, classes = build_teacher(config, str(odd))
    assert classes is None


def test_no_imagenet_weights_are_fetched(saved, monkeypatch):
    config, path, _ = saved
    config = copy.deepcopy(config)
    config.backbone.init_cfg = dict(type="Pretrained", checkpoint="torchvision://resnet18")
    teacher, _ = build_teacher(config, path)

    def fetched(cls, filename, *args, **kwargs):
        raise AssertionError(f"{filename} is fetched")

    monkeypatch.setattr(CheckpointLoader, "load_checkpoint", classmethod(fetched))
    teacher.init_weights()  # what a Runner would call


def test_built_from_cfg_path(saved, tmp_path):
    config, path, _ = saved
    file = tmp_path / "teacher.py"
    file.write_text(f"default_scope = 'mmdet'\nmodel = {config.to_dict()!r}\n")
    teacher, _ = build_teacher(dict(cfg_path=str(file)), path)
    assert type(teacher).__name__ == "FasterRCNN"


def test_weights_that_do_not_match_are_listed(saved, tmp_path):
    config, path, _ = saved
    weights = torch.load(path)["state_dict"]
    del weights["roi_head.bbox_head.fc_cls.bias"]
    torch.save(dict(state_dict=weights), tmp_path / "bad.pth")
    message = r"(?s)model.teacher_ckpt=.*missing in the checkpoint \(1\): roi_head.bbox_head.fc_cls.bias"
    with pytest.raises(CheckpointError, match=message):
        build_teacher(config, str(tmp_path / "bad.pth"))


def test_a_distilled_checkpoint_can_teach(saved, tmp_path):
    config, path, original = saved
    weights = {f"architecture.{k}": v for k, v in torch.load(path)["state_dict"].items()}
    torch.save(dict(state_dict=weights), tmp_path / "distilled.pth")
    teacher, _ = build_teacher(config, str(tmp_path / "distilled.pth"))
    assert torch.equal(teacher.roi_head.bbox_head.fc_cls.weight, original.roi_head.bbox_head.fc_cls.weight)


PREPROCESSORS = {
    "same": dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    "caffe": CAFFE,
    "other std, same order": dict(mean=[123.675, 116.28, 103.53], std=[50.0, 60.0, 70.0], bgr_to_rgb=True),
    "other order only": dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=False),
    "other padding": dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_value=7),
    "raw": dict(pad_value=114),
}


@pytest.mark.parametrize("student", PREPROCESSORS)
@pytest.mark.parametrize("teacher", PREPROCESSORS)
def test_teacher_sees_what_its_own_preprocessor_makes(student, teacher):
    own, other = (
        MODELS.build(dict(type="DetDataPreprocessor", pad_size_divisor=32) | PREPROCESSORS[k])
        for k in (student, teacher)
    )
    data = demo_mm_inputs(2, [[3, 50, 90], [3, 70, 64]])
    batch_s, batch_t = (p(copy.deepcopy(data), True) for p in (own, other))
    inputs = batch_s["inputs"].clone()
    mapped = TeacherInput(own, other)(inputs, batch_s["data_samples"])
    torch.testing.assert_close(mapped, batch_t["inputs"], rtol=1e-5, atol=2e-4)
    assert torch.equal(inputs, batch_s["inputs"]), "the student's batch was changed"
    if student == teacher:
        assert mapped is inputs


def test_caffe_style_teacher_in_a_pair():
    config = tiny_rcnn()
    caffe = copy.deepcopy(config)
    caffe.data_preprocessor.update(CAFFE)
    model = build_pair(config, teacher=build(caffe, seed=4))
    seen = []
    model.teacher.backbone.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    raw = demo_mm_inputs(2, [[3, 64, 96], [3, 96, 64]], num_classes=NUM_CLASSES)
    model(**model.data_preprocessor(copy.deepcopy(raw), True), mode="loss")
    want = model.teacher.data_preprocessor(copy.deepcopy(raw), True)["inputs"]
    torch.testing.assert_close(seen[0], want, rtol=1e-5, atol=2e-4)


def test_batch_norm_of_the_teacher_never_moves():
    config = tiny_rcnn()
    config.backbone.update(norm_eval=False)
    model = build_pair(config)
    model.train()
    before = copy.deepcopy(model.teacher.state_dict())
    student_before = copy.deepcopy(model.architecture.state_dict())
    model(**batch(model), mode="loss")
    assert all(torch.equal(v, before[k]) for k, v in model.teacher.state_dict().items())
    moved = [k for k, v in model.architecture.state_dict().items() if not torch.equal(v, student_before[k])]
    assert moved  # the student's do
    assert all("running" in k or "tracked" in k for k in moved)
