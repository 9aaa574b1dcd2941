"""tools/check_pair.py: what it measures, what it prints, and the mistakes it finds."""

import copy

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from tiny import build, build_pair, perturb, tiny_rcnn
from torch import nn

from rekd_det.analysis.pair_check.pair_check import check_pair
from rekd_det.analysis.pair_check.pair_measure import detector_cost, loss_shares, step_flops, synthetic_batch
from rekd_det.analysis.pair_check.training_data import train_scale
from rekd_det.testing.tiny_detectors import build_random, tiny_config


@pytest.fixture
def check(outcome):
    """Run the tool here; returns its exit code and what it printed."""
    return lambda *arguments: outcome("check_pair.py", *arguments, "--size", 64, 96)


def test_no_images_are_refused_before_the_check(pair, check):
    assert check(pair.pair, "--limit", 0) == (2, "")


def test_a_sound_pair(check, pair):
    code, said = check(pair.pair, "--cfg-options", f"load_from={pair.folder / 'student.pth'}")
    assert code == 0
    assert "0 mistakes" in said
    for line in (
        "student          FasterRCNN, 0.2 M parameters",
        "teacher          FasterRCNN, 0.7 M parameters",
        "StandardRoIHead <- StandardRoIHead, rows: the student's sampled RoIs, 12 classes, 13 logits per row",
        "categories       data 12 (circle, ellipse, ring ...); teacher 12 (circle, ellipse, ring ...)",
        "normalisation    the same for both",
        "gradient on the student's neck",
        "distill.loss_tisd",
        "distill.head_mass",
        "GFLOPs for backbone and neck at 64x64",
    ):
        assert line in said, line
    keys = len(torch.load(pair.folder / "student.pth", weights_only=True)["state_dict"])
    assert f"student.pth: {keys} of {keys} keys match the student's {keys}" in said


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        (["model.distiller.loss.alpha=0", "model.distiller.loss.beta=0"], "has no gradient on the student"),
        (["model.distiller.loss.top_k=40"], "top_k=40 leaves no tail category"),
        (["model.teacher_ckpt={folder}/student.pth"], "size mismatch"),
        (["model.architecture.roi_head.bbox_head.num_classes=9"], "num_classes=9"),
        (
            ["train_dataloader.dataset.metainfo.classes=('a','b')"],
            "has 2 categories and the student's head num_classes=12",
        ),
        (
            [
                "model.architecture.backbone.strides=(1,1,2,2)",
                "model.distiller.feature_losses.loss_cwd.type=mmrazor.ChannelWiseDivergence",
                "model.distiller.feature_losses.loss_cwd.levels=[1]",
            ],
            "feature_losses.loss_cwd: ChannelWiseDivergence can't compare level 1",
        ),
        (["model.distiller.rowz=all"], "ReKDDistiller() can't be built: it has no option 'rowz'; did you mean 'rows'"),
        (["train_dataloader.dataset.metainfo.classes=('a',)"], "the data set has 1 categories, the teacher"),
    ],
)
def test_mistakes_come_with_their_mend(check, pair, options, mistake):
    code, said = check(pair.pair, "--cfg-options", *(o.format(folder=pair.folder) for o in options))
    assert code == 1
    listed = said.split("Mistakes\n--------\n")[1]
    assert mistake in listed
    assert all(line.startswith("* ") for line in listed.strip().splitlines()[:-2])


def test_a_learning_rate_for_less_than_one_gpu_is_doubted(check, pair):
    code, said = check(pair.pair, "--cfg-options", "auto_scale_lr.base_batch_size=1", "train_dataloader.batch_size=2")
    assert code == 0
    assert "auto_scale_lr.base_batch_size is 1, less than the 2 images of a single GPU" in said


@pytest.mark.parametrize(
    ("pipeline", "scale"),
    [
        ([dict(type="RandomResize", scale=(1280, 1280)), dict(type="RandomCrop", crop_size=(640, 320))], (640, 320)),
        ([dict(type="Resize", scale=(9, 8)), dict(type="RandomCrop", crop_type="relative", crop_size=(1, 1))], (9, 8)),
        ([dict(type="Resize", scale_factor=1.0)], None),
    ],
)
def test_the_size_of_training_images(pipeline, scale):
    cfg = Config(dict(train_dataloader=dict(dataset=dict(dataset=dict(pipeline=pipeline)))))
    assert train_scale(cfg) == ((1333, 800) if scale is None else scale, scale is not None)
    cfg = Config(dict(train_dataloader=dict(dataset=dict(dataset=dict(datasets=[dict(pipeline=pipeline)])))))
    assert train_scale(cfg)[1] is (scale is not None)
    mixed = dict(dataset=dict(pipeline=pipeline, dataset=dict(pipeline=[dict(type="Resize", scale=(5, 4))])))
    assert train_scale(Config(dict(train_dataloader=dict(dataset=mixed))))[1] is (scale is not None)


def test_a_teacher_in_low_precision_is_measured_as_well(check, pair):
    told = {}
    for options in ([], ["--cfg-options", "model.teacher_dtype=bf16"]):
        code, said = check(pair.pair, *options)
        assert code == 0
        told[len(options)] = [line for line in said.splitlines() if line.startswith("teacher  ")]
    assert told[0] == told[2] and "GFLOPs in all" in told[0][-1]


def test_pretrained_weights_of_the_student_are_named_and_not_read(check, pair, tmp_path):
    init = [dict(type="Xavier", layer="Conv2d"), dict(type="Pretrained", checkpoint="new.pth")]
    changes = dict(backbone=dict(pretrained="old.pth"), neck=dict(init_cfg=init))
    (tmp_path / "named.py").write_text(f"_base_ = ['{pair.pair}']\nmodel = dict(architecture={changes!r})\n")
    code, said = check(tmp_path / "named.py")
    assert code == 0
    assert "student weights  random here; the training starts from new.pth, old.pth" in said


def zoo_pair_config(tmp_path, path, changed_neck=None, **changes):
    """The config of a pair of a tiny detector of the zoo and a teacher of the same kind."""
    config = tiny_config(f"mmdet::{path}")
    teacher = copy.deepcopy(config)
    if changed_neck:
        teacher.neck.update(changed_neck)
    torch.save(dict(state_dict=build_random(teacher, seed=1).state_dict()), tmp_path / "teacher.pth")
    distiller = dict(type="mmrazor.ReKDDistiller", loss=dict(type="mmrazor.ReKDLoss", top_k=2))
    pair = dict(architecture=config, teacher=teacher, teacher_ckpt=str(tmp_path / "teacher.pth"))
    model = dict(type="mmrazor.ReKDDistill", distiller=distiller, **pair)
    return Config(dict(default_scope="mmdet", model=model, **changes))


def test_a_student_that_learns_masks_in_its_box_head(tmp_path):
    found = check_pair(zoo_pair_config(tmp_path, "rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py"), (64, 96))
    assert not found.mistakes
    assert any(line.startswith("loss_mask ") for line in found.lines)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py", "ssd/ssd300_coco.py"])
def test_detectors_that_need_proposals_or_the_size_of_their_training(tmp_path, path):
    pipeline = [dict(type="Resize", scale=(300, 300), keep_ratio=False)]
    data = dict(dataset=dict(type="CocoDataset", pipeline=pipeline))
    found = check_pair(zoo_pair_config(tmp_path, path, train_dataloader=data), None)
    assert not found.mistakes
    assert any(line.startswith("distill.loss_tisd ") for line in found.lines)


def test_an_untrained_teacher_is_seen_on_data(check, pair):
    code, said = check(pair.pair, "--limit", 3)
    assert code == 1
    assert "Teacher on the first 3 test images" in said
    assert "the teacher's coco/bbox_mAP on 3 images is 0.0" in said


@pytest.mark.parametrize(
    ("metrics", "expected", "verdict"),
    [
        (dict(bbox_AP=0.3, bbox_APr=-1.0), 0, "0 mistakes"),  # LVIS
        (dict(PQ=1.5, SQ=70.0), 1, "the teacher's coco/PQ on 3 images is 0.015"),  # panoptic, in per cent
        ({"AR@100": 0.0}, 0, "none of the teacher's metrics is known here"),
    ],
)
def test_the_metrics_of_other_evaluators(check, pair, monkeypatch, metrics, expected, verdict):
    monkeypatch.setattr(CocoMetric, "compute_metrics", lambda self, results: metrics)
    code, said = check(pair.pair, "--limit", 3)
    assert code == expected
    assert verdict in said


def test_annotations_that_are_not_there(check, pair):
    options = ("--limit", 2, "--cfg-options", "test_dataloader.dataset.ann_file=no.json")
    code, said = check(pair.pair, *options)
    assert code == 1
    assert "does not exist" in said.split("Mistakes\n--------\n")[1] and "distill.loss_tisd" in said


def test_a_teacher_of_feature_maps_may_know_other_categories(check, pair, tmp_path):
    (tmp_path / "teacher.py").write_text(
        f"_base_ = ['{pair.teacher}']\nmodel = dict(roi_head=dict(bbox_head=dict(num_classes=3)))\n"
    )
    teacher = build_random(Config.fromfile(tmp_path / "teacher.py").model)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / "teacher.pth")
    pkd = dict(loss_pkd=dict(type="mmrazor.PKDLoss"))
    (tmp_path / "features.py").write_text(
        f"_base_ = ['{pair.pair}']\n"
        f"model = dict(teacher=dict(_delete_=True, cfg_path='{tmp_path}/teacher.py'), "
        f"teacher_ckpt='{tmp_path}/teacher.pth', calculate_student_loss=False, "
        f"distiller=dict(loss=None, feature_losses={pkd!r}))\n"
    )
    code, said = check(tmp_path / "features.py", "--limit", 2)
    assert code == 0 and "0 mistakes" in said
    assert "--limit: the teacher has no score: model.roi_head.bbox_head.num_classes=3" in said
    assert "of the gradient at the start" not in said  # it is all there is


# --- the measurements


@pytest.fixture(scope="module")
def model():
    return build_pair(tiny_rcnn(), teacher=perturb(build(tiny_rcnn())))


def test_gradients_of_the_losses_by_hand(model):
    batch = synthetic_batch(model, 6, (64, 96))
    torch.manual_seed(0)
    shares, statistics, layers = loss_shares(model, batch)
    assert layers == "neck"
    assert "distill.head_mass" in statistics
    torch.manual_seed(0)
    losses = model.loss(batch["inputs"], batch["data_samples"])
    model.zero_grad()
    losses["distill.loss_tisd"].backward()
    norm = torch.stack([p.grad.square().sum() for p in model.student.neck.parameters()]).sum().sqrt()
    found = {share.name: share for share in shares}["distill.loss_tisd"]
    assert found.value == pytest.approx(float(losses["distill.loss_tisd"]), rel=1e-5)
    assert found.gradient == pytest.approx(float(norm), rel=1e-4)


class OneConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)

    def extract_feat(self, image):
        return (self.conv(image),)

    def forward(self, image, samples, mode):
        raise NotImplementedError


def test_operations_and_bytes_by_hand():
    cost = detector_cost(OneConv(), dict(inputs=torch.zeros(2, 3, 10, 20), data_samples=[None, None]))
    assert cost.parameters == 3 * 8 * 9
    assert cost.feature_flops == 2 * 3 * 8 * 9 * 10 * 20
    assert cost.total_flops is None
    assert cost.feature_bytes == cost.largest_bytes == 8 * 10 * 20 * 4


def test_what_the_distillation_adds(model):
    batch = synthetic_batch(model, 6, (64, 96))
    own, extra = step_flops(model, batch)
    teacher = detector_cost(model.teacher, batch).feature_flops * 2
    assert teacher < extra < own
    assert not model.distillation_stopped


def test_a_teacher_with_fewer_levels_is_a_mistake_and_no_traceback(tmp_path):
    cfg = zoo_pair_config(tmp_path, "retinanet/retinanet_r50_fpn_1x_coco.py", changed_neck=dict(num_outs=4))
    (mistake,) = check_pair(cfg, (64, 96)).mistakes
    assert "of 64 x 96 pixels can't be computed: RetinaHead has logits (2322, 80) in 5 calls of its" in mistake
    assert "model.teacher and model.architecture need the same strides and number of levels, and a head of" in mistake
    assert "(raised in" in mistake
