"""The tools of tools/analysis on a tiny pair, and what its training logs."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from pycocotools.coco import COCO
from tiny import batch, build_pair, perturb, tiny_rcnn
from tiny_pair import TinyPair
from torch.utils.data import Subset

from rekd_det.analysis.teacher.box_scores import MIN_SCORE, TeacherScores
from rekd_det.analysis.teacher.browse import MAX_BOXES, Panel, draw, look
from rekd_det.analysis.teacher.pull import Pull
from rekd_det.analysis.teacher.rows import Rows, aligned_logits
from rekd_det.analysis.teacher.sure_rows import Agreement
from rekd_det.analysis.utils.pair import batches, build_images, choose, class_names
from rekd_det.analysis.utils.pair import build_pair as build_analysed
from rekd_det.structures import LogitMeaning
from rekd_det.testing.tiny_detectors import build_random, pair_of, tiny_batch, tiny_config
from rekd_det.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = 12


@pytest.fixture
def tool(run_tool, monkeypatch, tmp_path, capsys):
    """Run a tool in this process; returns what it printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        run_tool(f"analysis/{name}.py", *arguments)
        return capsys.readouterr().out

    return run


# --- the images and the pair ----------------------------------------------------------------


def random_config(pair: TinyPair) -> Config:
    """The pair with augmentation and a wrapper around its training data, as many configs have."""
    cfg = Config.fromfile(str(pair.pair))
    inner = cfg.train_dataloader.dataset
    inner.pipeline.insert(3, dict(type="RandomFlip", prob=1.0))
    inner.pipeline[1].with_mask = True
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=3, dataset=inner)
    return cfg


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_are_not_augmented_and_annotated_as_in_training(pair, split):
    images = build_images(random_config(pair), split)
    assert len(images) == len(json.loads((pair.data / f"annotations/instances_{split}2017.json").read_text())["images"])
    sample = images[0]["data_samples"]
    assert not sample.metainfo.get("flip")
    assert "masks" in sample.gt_instances
    entry = images.get_data_info(0)
    scale = np.tile(sample.scale_factor, 2)
    wanted = np.array([i["bbox"] for i in entry["instances"]]) * scale
    np.testing.assert_allclose(get_box_tensor(sample.gt_instances.bboxes).numpy(), wanted, rtol=1e-4, atol=1e-3)


def test_limited_images_are_spread_over_the_data_set():
    assert list(choose(range(101), 5).indices) == [0, 25, 50, 75, 100]
    assert len(choose(range(4), 10)) == len(choose(range(4), None)) == 4


def test_names_where_the_data_set_has_too_few(pair):
    images = build_images(Config.fromfile(str(pair.pair)), "val")
    names = class_names(images, CATEGORIES + 1)
    assert names[0] == "circle" and names[-1] == f"category {CATEGORIES}"
    assert class_names(images, 2) == names[:2]


def test_the_pair_starts_from_a_checkpoint_with_fixed_norms(pair):
    cfg = Config.fromfile(str(pair.pair))
    model = build_analysed(cfg, str(pair.folder / "student.pth"), "cpu")
    weights = torch.load(pair.folder / "student.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(v, weights[k]) for k, v in model.student.state_dict().items())
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(n.training for n in norms)
    assert model.student.rpn_head.training


# --- head_tail ------------------------------------------------------------------------------


def test_a_student_that_is_its_teacher_agrees_with_it(tmp_path):
    config = tiny_config("mmdet::detr/detr_r50_8xb2-150e_coco.py")  # with dropout in the attention, which is no module
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_random(config).state_dict()), tmp_path / "teacher.pth")
    distiller = dict(type="mmrazor.ReKDDistiller", loss=dict(type="mmrazor.KDLoss"))
    pair = dict(architecture=config, teacher=config, teacher_ckpt=str(tmp_path / "teacher.pth"), distiller=distiller)
    cfg = Config(dict(default_scope="mmdet", model=dict(type="mmrazor.ReKDDistill", **pair)))
    model = build_analysed(cfg, str(tmp_path / "teacher.pth"), "cpu")
    entries = aligned_logits(model, tiny_batch(model.student, (96, 128)))
    assert entries
    for entry in entries:
        torch.testing.assert_close(entry.student, entry.teacher)


def test_masks_are_padded_like_their_images():
    preprocessor = DetDataPreprocessor(pad_mask=True, pad_size_divisor=32)
    data = demo_mm_inputs(2, [[3, 100, 140], [3, 130, 97]], num_items=[2, 3], num_classes=6, with_mask=True)
    images = [dict(inputs=i, data_samples=s) for i, s in zip(data["inputs"], data["data_samples"], strict=True)]
    (batch,) = batches(SimpleNamespace(data_preprocessor=preprocessor), Subset(images, [0, 1]), 2, 0)
    assert batch["inputs"].shape[-2:] == (160, 160)
    assert {s.gt_instances.masks.masks.shape[1:] for s in batch["data_samples"]} == {(160, 160)}


def test_head_tail_of_one_category_says_that_there_is_no_tail(pair, tool, tmp_path, monkeypatch):
    def one_logit(model, batch):
        yield Rows(torch.zeros(4, 1), torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), 1, "sigmoid")

    # The tool imports it anew.
    monkeypatch.setattr("rekd_det.analysis.teacher.rows.rows_of", one_logit)
    with pytest.raises(SystemExit, match="one category and no background: there is no tail"):
        tool("head_tail", pair.pair, "--limit", 2, "--split", "val", "--workers", 0, "--out", tmp_path / "report")


def test_head_tail_writes_a_report_that_stands_alone(pair, tool, tmp_path):
    out = tmp_path / "report"
    arguments = ("--limit", 3, "--split", "val", "--workers", 0, "--checkpoint", pair.folder / "student.pth")
    said = tool("head_tail", pair.pair, *arguments, "--out", out)
    assert re.search(r"Suggested K: \d+|probabilities are flat", said)
    with (out / "gradients.csv").open() as file:
        assert {line["part"] for line in csv.DictReader(file)} == {"loss_tisd", "loss_ntid", "cross-entropy"}
    html = (out / "report.html").read_text()
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) >= 4 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "http" not in html
    assert "3 images of its val set" in html
    with (out / "head_mass.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {line["judge"] for line in table} == {"teacher", "student"}
    assert {int(line["K"]) for line in table} == set(range(1, CATEGORIES + 1))
    for line in table:
        assert float(line["mean_P"]) + float(line["mean_1-P"]) == pytest.approx(1, abs=1e-6)
    by_group = {(x["judge"], x["group"]): int(x["rows"]) for x in table if x["K"] == "1"}
    for judge in ("teacher", "student"):
        parts = [by_group.get((judge, f"object, {d}"), 0) for d in ("easy", "hard")]
        assert sum(parts) == by_group[judge, "object"] > 0
    with (out / "heads.csv").open() as file:
        heads = list(csv.DictReader(file))
    assert len(heads) == CATEGORIES
    assert sum(int(line["rows"]) for line in heads) == by_group["teacher", "object"]
    for line in heads:
        if int(line["rows"]):  # K = 2 categories are in the top-K set of every row
            assert sum(float(v) for k, v in line.items() if k not in ("label", "rows")) == pytest.approx(2, abs=1e-4)


RETINA = """model = dict(
    backbone=dict(depth=18, base_channels=8, frozen_stages=-1, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(num_classes={count}, in_channels=16, feat_channels=16, stacked_convs=1),
)
"""


def test_head_tail_of_a_sigmoid_head_shows_what_kd_is_made_of(pair, tool, tmp_path):
    text = (pair.folder / "student.py").read_text().replace("faster-rcnn_r50_fpn", "retinanet_r50_fpn")
    start, end = text.index("model = dict("), text.index("train_dataloader")
    (tmp_path / "retina.py").write_text(text[:start] + RETINA.format(count=CATEGORIES) + text[end:])
    teacher = MODELS.build(Config.fromfile(tmp_path / "retina.py").model)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / "teacher.pth")
    (tmp_path / "pair.py").write_text(
        "_base_ = ['./retina.py']\nmodel = dict(_delete_=True, type='mmrazor.ReKDDistill', architecture=_base_.model,\n"
        "distiller=dict(type='mmrazor.ReKDDistiller', loss=dict(type='mmrazor.ReKDLoss', top_k=2), rows='teacher'),\n"
        f"teacher=dict(cfg_path='{tmp_path}/retina.py'), teacher_ckpt='{tmp_path}/teacher.pth')\n"
    )
    said = tool("head_tail", tmp_path / "pair.py", "--limit", 2, "--split", "val", "--workers", 0, "--out", tmp_path)
    assert "A, TISD and NTID by category: " in said
    with (tmp_path / "category_terms.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert lines[-1]["category"] == "background" and len(lines) > 1
    for line in lines:
        assert 0 < float(line["mean A"]) < 1 and float(line["NTID"]) >= 0
    assert "What KD of this head consists of" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_head_tail_is_repeatable(pair, tool, tmp_path):
    tables = []
    for name in ("a", "b"):
        tool("head_tail", pair.pair, "--limit", 2, "--workers", 0, "--out", tmp_path / name)
        tables.append((tmp_path / name / "head_mass.csv").read_text())
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("student", (), "this config is not a pair"),
        ("pair", ("--top-k", 13), "--top-k 13 leaves no tail: the head has 13 logits"),
        ("pair", ("--checkpoint", "none.pth"), "checkpoint 'none.pth' does not exist"),
        ("pair", ("--cfg-options", "train_dataloader.dataset.data_root=nowhere"), "'nowhere.*' does not exist"),
        ("pair", ("--limit", 0), "2"),
    ],
)
def test_head_tail_refuses(pair, tool, tmp_path, config, arguments, message):
    with pytest.raises(SystemExit, match=message):
        tool("head_tail", getattr(pair, config), *("--limit", 1, "--workers", 0, "--out", tmp_path / "x"), *arguments)
    assert not list((tmp_path / "x").glob("*"))


def test_a_pair_without_class_logits_has_no_head(pair):
    cfg = Config.fromfile(str(pair.pair))
    cfg.model.distiller = dict(
        type="mmrazor.ReKDDistiller", loss=None, feature_losses=dict(loss_pkd=dict(type="mmrazor.PKDLoss", levels=[0]))
    )
    with pytest.raises(InputError, match="distils no classification logits"):
        build_analysed(cfg, None, "cpu")


def test_where_the_gradient_comes_from():
    loss = MODELS.build(dict(type="mmrazor.ReKDLoss", top_k=1, alpha=2.0, beta=0.5))
    teacher = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 4.0], [1.0, 0.0, 0.0, 2.0]])
    student = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, 0.0, 4.0], [0.0, 0.0, 1.0, 1.0]])
    labels = torch.tensor([0, 3, 3])
    pull = Pull(loss)
    pull.add(Rows(teacher, student, labels, 3, "softmax"))
    table = {(line[0], line[1]): line for line in pull.table()}
    assert [table["loss_tisd", g][2] for g in ("object", "background")] == [1, 2]
    q, p = student.softmax(1), teacher.softmax(1)
    own = (q - torch.nn.functional.one_hot(labels, 4)).abs().sum(1)
    assert float(table["cross-entropy", "object"][3]) == pytest.approx(float(own[0]), rel=1e-3)
    assert float(table["cross-entropy", "background"][3]) == pytest.approx(float(own[1:].mean()), rel=1e-3)
    # TISD of one class: alpha * 2 |Q - P|, half of it on the class and half on the others.
    tisd = 4 * (q - p)[torch.arange(3), teacher.argmax(1)].abs()
    assert float(table["loss_tisd", "object"][3]) == pytest.approx(float(tisd[0]), rel=1e-3)
    assert float(table["loss_tisd", "object"][4]) == pytest.approx(float(tisd[0] / tisd.sum()), abs=1e-3)
    # The second row's student is its teacher.
    assert float(table["loss_ntid", "background"][3]) > 0
    without = Pull(loss)
    without.add(Rows(teacher, student, None, 3, "softmax"))
    assert not without.table()


def test_a_sigmoid_head_that_is_read_as_a_softmax_has_no_cross_entropy():
    pull = Pull(MODELS.build(dict(type="mmrazor.KDLoss", activation="implicit_bg")))
    rows = Rows(torch.randn(2, 4), torch.randn(2, 4), torch.tensor([0, 3]), 3, "softmax")
    pull.add(rows)
    assert {line[0] for line in pull.table()} == {"loss_kd"}


# --- agreement ------------------------------------------------------------------------------


def test_agreement_counts_what_it_says():
    found = Agreement(top_k=2)
    teacher = torch.tensor([[4.0, 3.0, 0.0, 9.0], [0.0, 4.0, 3.0, 0.0]])
    found.add(teacher, teacher, LogitMeaning("softmax", background=3))
    assert found.result() == pytest.approx({"top1": 1.0, "head": 1.0, "kl": 0.0}, abs=1e-7)
    other = torch.tensor([[3.0, 4.0, 0.0, 9.0], [4.0, 0.0, 3.0, 0.0]])
    found.add(other, teacher, LogitMeaning("softmax", background=3))
    p, q = teacher.softmax(1), other.softmax(1)
    kl = float((p * (p / q).log()).sum())
    # The first row's head is the same in another order; the second row's shares one category of two.
    assert found.rows == 4
    assert found.result() == pytest.approx({"top1": 0.5, "head": (2 + 1 + 0.5) / 4, "kl": kl / 4})


def test_agreement_of_sigmoid_heads_sums_bernoullis():
    found = Agreement(top_k=5)
    student, teacher = torch.tensor([[0.5, -1.0]]), torch.tensor([[2.0, 0.0]])
    found.add(student, teacher, LogitMeaning("sigmoid"))
    p, q = (torch.distributions.Bernoulli(logits=x) for x in (teacher, student))
    assert found.result()["kl"] == pytest.approx(float(torch.distributions.kl_divergence(p, q).sum()))


def test_the_agreement_tool(pair, tool, tmp_path):
    arguments = (pair.pair, pair.folder / "student.pth", pair.folder / "student.pth", "--limit", 2, "--workers", 0)
    said = tool("agreement", *arguments, "--least", 0, "--top-k", 3, "--out", tmp_path / "new/table.csv")
    lines = [line for line in said.splitlines() if "student.pth" in line]
    assert len(lines) == 2 and lines[0] == lines[1]
    with (tmp_path / "new/table.csv").open() as file:
        header, first, _ = csv.reader(file)
    assert header[3] == "share of the teacher's top 3"
    assert int(first[1]) > 0 and 0 <= float(first[2]) <= 1 and float(first[4]) > 0
    assert "teacher's top 2" in tool("agreement", *arguments, "--least", 0)  # the pair's own K
    # Untrained, it is sure of nothing.
    with pytest.raises(SystemExit, match=r"no row of these images reaches --least 0\.9"):
        tool("agreement", *arguments, "--least", 0.9)


# --- browse ---------------------------------------------------------------------------------


def test_browse_writes_a_picture_per_image(pair, tool, tmp_path):
    out = tmp_path / "pictures"
    said = tool("browse", pair.pair, pair.folder / "student.pth", "--limit", 2, "--score-thr", 0, "--out", out)
    pictures = sorted(p.name for p in out.glob("*.png"))
    assert len(pictures) == 2 and f"pictures: {out / 'index.html'}" in said
    assert [name[:5] for name in pictures] == ["0000_", "0001_"]  # images of two folders may have one name
    assert sorted(set(re.findall(r'src="([^"]*)"', (out / "index.html").read_text()))) == pictures
    assert imread(out / pictures[0]).std() > 0.05  # something is drawn
    share = ("--cfg-options", "model.distiller.loss.top_k=0.95")
    tool("browse", pair.pair, pair.folder / "student.pth", "--limit", 1, "--out", out, *share)
    assert " 5 most probable categories" in (out / "index.html").read_text()


def test_browse_refuses_a_classifier(tool, tmp_path):
    (tmp_path / "pair.py").write_text("default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier')\n")
    with pytest.raises(SystemExit, match=r"is a classifier's, which finds no boxes.*/image_accuracy\.py"):
        tool("browse", tmp_path / "pair.py", "none.pth", "--out", tmp_path / "x")


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_browse_shows_what_the_detectors_say(pair, dtype):
    cfg = Config.fromfile(str(pair.pair))
    cfg.model.teacher_dtype = dtype
    model = build_analysed(cfg, str(pair.folder / "student.pth"), "cpu")
    images = build_images(Config.fromfile(str(pair.pair)), "val")
    data = model.data_preprocessor(pseudo_collate([images[1]]), False)
    names = class_names(images, CATEGORIES)
    training = [m.training for m in model.student.modules()]
    truth, teacher, student = look(model, data, names, 3, min_score=0.0)
    assert [m.training for m in model.student.modules()] == training
    instances = images[1]["data_samples"].gt_instances
    assert truth.names == [names[i] for i in instances.labels]
    np.testing.assert_allclose(truth.boxes, get_box_tensor(instances.bboxes).numpy(), rtol=1e-5)
    for panel in (teacher, student):
        scores = [float(n.rpartition(" ")[2]) for n in panel.names]
        assert scores == sorted(scores, reverse=True) and len(scores) == 10  # max_per_img
        assert all(len(h.split(", ")) == 3 for h in panel.heads)
    nothing = look(model, data, names, 3, min_score=1.0)
    assert not nothing[1].names and not nothing[2].names


def test_an_rcnn_teacher_classifies_the_very_boxes():
    model = build_pair(tiny_rcnn(), teacher=perturb(build_random(tiny_rcnn())))
    data = batch(model, shapes=((3, 64, 96),), num_items=(3,))
    feats = model.teacher.extract_feat(data["inputs"])
    ask = TeacherScores(model, feats, data["data_samples"][0])
    boxes = torch.tensor([[5.0, 5, 40, 40], [20, 10, 90, 60]])
    rois = torch.cat([torch.zeros(2, 1), boxes], 1)
    wanted = model.teacher.roi_head._bbox_forward(feats, rois)["cls_score"].softmax(1)
    torch.testing.assert_close(ask(boxes), wanted)
    assert ask(boxes[:0]).shape == (0, 7)


@pytest.mark.parametrize("cfg_path", ["retinanet/retinanet_r50_fpn_1x_coco.py", "yolox/yolox_tiny_8xb8-300e_coco.py"])
def test_a_dense_teachers_own_detection_has_its_own_scores(cfg_path):
    config = tiny_config(f"mmdet::{cfg_path}")
    model = pair_of(build_random(config), perturb(build_random(config, seed=1), scale=0.02))
    teacher = model.teacher
    teacher.eval()
    head = teacher.bbox_head
    for layer in (*getattr(head, "multi_level_conv_obj", ()), *getattr(head, "multi_level_conv_cls", ())):
        layer.bias.data += 4  # an untrained YOLOX is sure of nothing at all
    data = tiny_batch(model.student, images=1)
    with torch.no_grad():
        feats = teacher.extract_feat(data["inputs"])
        head.test_cfg.update(score_thr=0.0, max_per_img=5)
        found = head.predict(feats, data["data_samples"], rescale=False)[0]
        said = TeacherScores(model, feats, data["data_samples"][0])(found.bboxes)
    assert len(found) and said.shape == (len(found), 80)
    own = said[torch.arange(len(found)), found.labels]
    seen = found.scores > 2 * MIN_SCORE
    assert seen.any()
    torch.testing.assert_close(own[seen], found.scores[seen])
    assert (said[seen] > 0).sum() > seen.sum()  # other categories have a say too


@pytest.mark.parametrize(
    "cfg_path", ["detr/detr_r50_8xb2-150e_coco.py", "centernet/centernet_r18_8xb16-crop512-140e_coco.py"]
)
def test_heads_without_candidates_before_nms_are_not_asked(cfg_path):
    config = tiny_config(f"mmdet::{cfg_path}")
    model = pair_of(build_random(config), build_random(config, seed=1))
    data = tiny_batch(model.student, images=1)
    with torch.no_grad():
        feats = model.distiller.extract_teacher_feat(model.teacher, data["inputs"])
        assert TeacherScores(model, feats, data["data_samples"][0])(torch.tensor([[5.0, 5, 40, 40]])) is None


def test_a_far_box_has_no_candidate():
    config = tiny_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    model = pair_of(build_random(config), build_random(config, seed=1))
    model.teacher.eval()
    data = tiny_batch(model.student, images=1)
    with torch.no_grad():
        ask = TeacherScores(model, model.teacher.extract_feat(data["inputs"]), data["data_samples"][0])
        assert not ask(torch.tensor([[5000.0, 5000, 5001, 5001]])).any()


def test_more_boxes_than_a_panel_holds():
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[1.0, 1, 20, 20]] * MAX_BOXES)
    full = Panel("teacher", boxes, ["cat 0.9"] * MAX_BOXES, ["cat 0.90, dog 0.05"] * MAX_BOXES, hidden=4)
    figure = draw(image, [full, Panel("student", np.zeros((0, 4)), [], [])], "a.jpg")
    texts = [t.get_text() for axis in figure.axes for t in axis.texts]
    assert "and 4 more" in texts and "no box" in texts
    assert ", ".join(str(i + 1) for i in range(MAX_BOXES)) in texts  # one badge for one place


# --- compare_runs, and what a training logs -------------------------------------------------


@pytest.fixture(scope="module")
def trained(pair, tmp_path_factory) -> Path:
    """The work dir of a short training that logs to files and to TensorBoard, and validates by category."""
    work = tmp_path_factory.mktemp("trained")
    cfg = Config.fromfile(str(pair.pair))
    cfg.work_dir = str(work)
    cfg.custom_hooks += [dict(type="mmrazor.DistillLogHook"), dict(type="mmrazor.DistillWarmupHook", iters=4)]
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/analysis.md").read_text(), re.DOTALL)
    cfg.merge_from_dict(Config.fromstring(snippet, ".py").to_dict())
    cfg.experiment_name = "analysis_trained"
    cfg.train_cfg.val_interval = 2
    cfg.val_evaluator.classwise = True
    Runner.from_cfg(cfg).train()
    return work


WANTED = {
    *("loss", "loss_cls", "loss_bbox", "loss_rpn_cls", "loss_rpn_bbox"),
    *("distill.loss_tisd", "distill.loss_ntid", "distill.head_mass", "distill.agreement", "distill.scale"),
}


@pytest.mark.slow
def test_a_distillation_in_mmengines_log(trained):
    (text,) = trained.glob("*/*.log")
    line = next(x for x in text.read_text().splitlines() if "(train)" in x and "distill.scale: 0.5" in x)
    assert all(f" {name}: " in line for name in WANTED)
    assert "ReKD's first step distils head: " in text.read_text() and "rows, weight 1" in text.read_text()


@pytest.mark.slow
def test_a_distillation_in_tensorboard(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = trained.glob("*/vis_data/events.out.tfevents.*")
    seen = EventAccumulator(str(events)).Reload()
    assert set(seen.Tags()["scalars"]) >= WANTED
    (scalars,) = trained.glob("*/vis_data/scalars.json")
    first = json.loads(scalars.read_text().splitlines()[0])
    for name in WANTED:
        assert seen.Scalars(name)[0].value == pytest.approx(first[name], rel=1e-5)


def write_log(folder, **values):
    """A work dir whose training logged one validation, after step 2."""
    log = folder / "1" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({f"coco/{name}": value for name, value in values.items()} | {"step": 2}) + "\n")


@pytest.mark.slow
def test_compare_runs_reads_what_a_training_wrote(trained, tool, tmp_path):
    other = tmp_path / "other"
    write_log(other, bbox_mAP=0.25)
    said = tool("compare_runs", other, trained, "--out", tmp_path / "out")
    assert "AP by category is not known for: other." in said
    assert "| other | 0.250 |" in said
    with (tmp_path / "out" / "categories.csv").open() as file:
        assert {line["category"] for line in csv.DictReader(file)} >= {"circle", "badge-bar"}


def test_compare_runs_refuses(tool, tmp_path):
    write_log(tmp_path / "a", bbox_mAP=0.25)
    with pytest.raises(SystemExit, match="at least two work dirs"):
        tool("compare_runs", tmp_path / "a", "--out", tmp_path / "out")
    with pytest.raises(SystemExit, match="holds no log"):
        tool("compare_runs", tmp_path / "a", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_categories_are_recomputed_from_detections(pair, tool, tmp_path):
    annotations = pair.data / "annotations/instances_val2017.json"
    truth = json.loads(annotations.read_text())
    perfect = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in truth["annotations"]]
    lost = [d for d in perfect if d["category_id"] != 1]
    for name, found in (("a", perfect), ("b", lost)):
        write_log(tmp_path / name, bbox_mAP=0.25)
        (tmp_path / name / "final.bbox.json").write_text(json.dumps(found))
    said = tool("compare_runs", tmp_path / "a", tmp_path / "b", "--ann-file", annotations, "--out", tmp_path / "out")
    assert "| circle | 1.000 | 0.000 | -1.000 |" in said
    assert "not known" not in said and "No category gained." in said


def test_masks_are_recomputed_where_masks_were_evaluated(pair, tool, tmp_path):
    annotations = pair.data / "annotations/instances_val2017.json"
    coco = COCO(str(annotations))
    boxes = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in coco.anns.values()]
    masks = [b | {"segmentation": coco.annToRLE(a)} for a, b in zip(coco.anns.values(), boxes, strict=True)]
    for mask in masks:
        mask["segmentation"]["counts"] = mask["segmentation"]["counts"].decode()
    lost = [d for d in masks if d["category_id"] != 1]
    for name, found in (("a", masks), ("b", lost)):
        write_log(tmp_path / name, bbox_mAP=0.25, segm_mAP=0.2)
        (tmp_path / name / "final.bbox.json").write_text(json.dumps(boxes))
        (tmp_path / name / "final.segm.json").write_text(json.dumps(found))
    said = tool("compare_runs", tmp_path / "a", tmp_path / "b", "--ann-file", annotations, "--out", tmp_path / "out")
    assert "| circle | 1.000 | 0.000 | -1.000 |" in said
