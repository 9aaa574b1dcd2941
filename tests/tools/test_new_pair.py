"""tools/new_pair.py: from two names to the config of a pair; and the pair that it can't write."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from commands import fail, run
from mmdet.registry import MODELS
from mmengine.config import Config

from rekd_det.utils.pair_config import resolve_model_config
from rekd_det.utils.read_as_data import load_plain

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "new_pair.py"
PAGE = ROOT / "docs" / "new_pair.md"


def refused(run_tool, *arguments) -> str:
    with pytest.raises(SystemExit) as error:
        run_tool("new_pair.py", *arguments)
    return str(error.value.code)


@pytest.mark.parametrize(
    ("shipped", "student", "teacher"),
    [
        ("rekd_retina_r101_r18_coco", "retinanet_r18_fpn_1x_coco", "retinanet_r101_fpn_2x_coco"),
        ("rekd_frcnn_r101_r50_coco", "faster-rcnn_r50_fpn_1x_coco", "faster-rcnn_r101_fpn_2x_coco"),
        ("rekd_yolox_s_nano_coco", "yolox_nano_8xb8-300e_coco", "yolox_s_8xb8-300e_coco"),
    ],
)
def test_two_names_make_the_pair_that_is_shipped(shipped, student, teacher, tmp_path, run_tool):
    path = tmp_path / "pair.py"
    run_tool("new_pair.py", student, teacher, "--out", path)
    made, ours = Config.fromfile(path), Config.fromfile(ROOT / f"configs/{shipped}.py")
    assert made.model == ours.model
    assert made.custom_hooks == ours.custom_hooks
    control = Config.fromfile(tmp_path / f"student_{student}.py")
    assert control.model == made.model.architecture
    assert len(path.read_text().splitlines()) <= 12


@pytest.mark.slow
def test_the_command_line_says_what_to_do_next(tmp_path):
    command = (sys.executable, TOOL, "retinanet_r18_fpn_1x_coco", "retinanet_r101_fpn_2x_coco", "--out", "pair.py")
    said = run(*command, cwd=tmp_path)
    assert "box AP 38.9" in said
    assert "check_pair.py pair.py" in said
    again = fail(*command, cwd=tmp_path, status=1)
    assert "is there already" in again and "--force" in again


def test_a_student_whose_config_a_run_has_saved_starts_anew(tmp_path, run_tool):
    start = "work_dir = 'runs/student'\nresume = True\nload_from = 'runs/student/epoch_1.pth'\n"
    student, out = tmp_path / "student.py", tmp_path / "pair.py"
    student.write_text(f"_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n{start}")
    run_tool("new_pair.py", student, "retinanet_r101_fpn_2x_coco", "--out", out)
    for made in (Config.fromfile(out), Config.fromfile(tmp_path / "student_student.py")):
        assert (made.work_dir, made.resume, made.load_from) == (None, False, None)


def test_a_student_of_few_classes_without_hooks(tmp_path, run_tool):
    """Our K of 5 would leave no tail; and a config with no hooks has the key all the same."""
    text = "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\nmodel = dict(bbox_head=dict(num_classes=4))\n"
    for name in ("student", "teacher"):
        (tmp_path / f"{name}.py").write_text(text + "custom_hooks = []\n")
    files = (tmp_path / "student.py", tmp_path / "teacher.py", "--checkpoint", "x.pth")
    run_tool("new_pair.py", *files, "--out", tmp_path / "pair.py")
    made = Config.fromfile(tmp_path / "pair.py")
    assert made.model.distiller.loss.top_k == 2
    assert [hook.type for hook in made.custom_hooks] == ["mmrazor.PairCheckHook", "mmrazor.DistillLogHook"]


@pytest.mark.parametrize(
    ("base", "options", "beta", "top_k"),
    [
        ("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", "bbox_head=dict(num_classes=1)", 0.25, 1),
        ("mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py", "", 0.25, 5),  # its loss is in its box heads
        ("mmdet::detr/detr_r50_8xb2-150e_coco.py", "", 1.0, 5),
    ],
    ids=["one category", "sigmoids of a RoI head", "softmax of a query head"],
)
def test_the_loss_follows_the_logits_of_the_heads(tmp_path, run_tool, base, options, beta, top_k):
    for name in ("student", "teacher"):
        (tmp_path / f"{name}.py").write_text(f"_base_ = '{base}'\nmodel = dict({options})\n")
    files = (tmp_path / "student.py", tmp_path / "teacher.py", "--checkpoint", "x.pth")
    run_tool("new_pair.py", *files, "--out", tmp_path / "pair.py")
    loss = Config.fromfile(tmp_path / "pair.py").model.distiller.loss
    assert (loss.get("beta", 1.0), loss.top_k) == (beta, top_k)


def test_a_pair_is_no_student_and_a_path_may_hold_quotes(tmp_path, run_tool):
    said = refused(
        run_tool, ROOT / "configs/rekd_retina_r101_r18_coco.py", "retinanet_r101_fpn_2x_coco", "--out", "p.py"
    )
    assert "the student's config is a pair: give the config of its student alone" in said
    names = ("retinanet_r18_fpn_1x_coco", "retinanet_r101_fpn_2x_coco")
    run_tool("new_pair.py", *names, "--checkpoint", 'it\'s "q".pth', "--out", tmp_path / "pair.py")
    assert Config.fromfile(tmp_path / "pair.py").model.teacher_ckpt == 'it\'s "q".pth'


def test_files_serve_as_well_as_names(tmp_path, run_tool):
    for name in ("student", "teacher"):
        (tmp_path / f"{name}.py").write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n")
    out = tmp_path / "sub" / "pair.py"
    student, teacher = tmp_path / "student.py", tmp_path / "teacher.py"
    assert "--checkpoint" in refused(run_tool, student, teacher, "--out", out)
    run_tool("new_pair.py", student, teacher, "--checkpoint", "teacher.pth", "--out", out)
    model = Config.fromfile(out).model
    assert model.teacher.cfg_path == str(teacher) and model.teacher_ckpt == "teacher.pth"
    assert model.architecture.type == "RetinaNet"


@pytest.fixture
def own(tmp_path):
    """The command line for two configs of one's own, without --out."""
    for name in ("own", "student_own"):
        (tmp_path / f"{name}.py").write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n")
    return [tmp_path / "own.py", tmp_path / "student_own.py", "--checkpoint", "x.pth"]


@pytest.mark.slow
def test_check_checks_the_new_pair_at_once(own, run_tool, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        run_tool("new_pair.py", *own, "--out", tmp_path / "sub" / "pair.py", "--check")
    assert left.value.code == 1
    assert "checkpoint 'x.pth' does not exist" in capfd.readouterr().out


def test_a_control_that_was_edited_is_kept(own, run_tool, tmp_path, capsys):
    run_tool("new_pair.py", *own, "--out", tmp_path / "sub" / "pair.py")
    control = tmp_path / "sub" / "student_own.py"
    written = control.read_text()
    run_tool("new_pair.py", *own, "--out", tmp_path / "sub" / "pair2.py")
    assert "kept" not in capsys.readouterr().out
    control.write_text(written + "optim_wrapper = dict(optimizer=dict(lr=0.02))\n")
    run_tool("new_pair.py", *own, "--out", tmp_path / "sub" / "pair3.py")
    assert "lr=0.02" in control.read_text()
    assert "kept as it was" in capsys.readouterr().out
    run_tool("new_pair.py", *own, "--out", tmp_path / "sub" / "pair3.py", "--force")
    assert control.read_text() == written
    assert "kept" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("sub/student_own.py", "is the file of the control: choose another name"),
        ("own.py", "it is the student's or the teacher's config"),
        ("pair.py", "student_own.py' would be written over"),  # as the control
        ("pair", "is no config file: its name must end in .py"),
    ],
)
def test_the_configs_it_reads_and_the_control_are_no_target(own, run_tool, tmp_path, out, message):
    before = {path: path.read_text() for path in own[:2]}
    assert message in refused(run_tool, *own, "--out", tmp_path / out, "--force")
    assert {path: path.read_text() for path in own[:2]} == before
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["own.py", "student_own.py"]


def test_a_student_that_sets_what_the_base_sets_is_refused(own, run_tool, tmp_path):
    with own[0].open("a") as student:
        student.write("runner_type = 'rekd_det.ReKDRunner'\n")
    said = refused(run_tool, *own, "--out", tmp_path / "sub" / "pair.py")
    assert "Duplicate key is not allowed" in said and "remove it from the student's" in said
    assert not list(tmp_path.glob("sub/*.py"))


def test_a_mistyped_name_gets_the_nearest(run_tool, tmp_path):
    message = refused(run_tool, "retinanet_r18_fpn_1x", "x", "--out", tmp_path / "p.py")
    assert "student 'retinanet_r18_fpn_1x'" in message and "retinanet_r18_fpn_1x_coco" in message


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ("grounding_dino_swin-t_finetune_16xb2_1x_coco", "retinanet_r101_fpn_2x_coco", "GroundingDINOHead is not"),
        ("retinanet_r18_fpn_1x_coco", "rpn_r50_fpn_1x_coco", "the teacher's config has no model with one of roi_head"),
        ("faster-rcnn_r50_fpn_1x_coco", "retinanet_r101_fpn_2x_coco", "classify different kinds of rows"),
        ("atss_r50_fpn_1x_coco", "retinanet_r101_fpn_2x_coco", "with 1 prior per location, the teacher strides (8, 16"),
        (ROOT / "configs/cls/student_r20_cifar100.py", "retinanet_r101_fpn_2x_coco", "copy a pair from configs/cls"),
        ("resnet18_8xb32_in1k", "retinanet_r101_fpn_2x_coco", "copy a pair from configs/cls"),
    ],
)
def test_a_pair_that_can_not_be_distilled_is_not_written(student, teacher, message, run_tool, tmp_path):
    assert message in refused(run_tool, student, teacher, "--checkpoint", "x.pth", "--out", tmp_path / "p.py")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["faster-rcnn_r101_fpn_gn-ws-all_1x_coco", "ddq-detr-4scale_swinl_8xb2-30e_coco"])
def test_the_zoos_checkpoint_is_found_where_its_metafile_names_another_path(name, run_tool, tmp_path):
    run_tool("new_pair.py", name, name, "--out", tmp_path / "pair.py")
    model = Config.fromfile(tmp_path / "pair.py").model
    assert model.teacher_ckpt.startswith("https://")
    assert resolve_model_config(model.teacher).type == model.architecture.type


#: what mmdet's own configs in the new style have, and mmengine can't read again from a saved config's text
CLASSES = """
from mmengine.config import read_base
with read_base():
    from .names import *
from mmcv.ops import RoIAlign, nms
from mmdet.models import FasterRCNN, L1Loss
from torch.nn import BatchNorm2d
from torch.optim import SGD
model.type = FasterRCNN
model.backbone.norm_cfg.type = BatchNorm2d
model.roi_head.bbox_roi_extractor.roi_layer.type = RoIAlign
model.roi_head.bbox_head.loss_bbox.type = L1Loss
model.test_cfg.rcnn.nms.type = nms
optim_wrapper.optimizer.type = SGD
del default_scope
"""


@pytest.mark.slow
def test_the_pages_pair_in_the_new_style_is_like_one_with_names(pair, run_tool, tmp_path):
    code = re.search(r"```python\n(from mmengine.config import read_base.*?)```", PAGE.read_text(), re.S)[1]
    for name in ("my_student", "my_teacher"):
        (tmp_path / f"{name}.py").write_text(CLASSES.replace(".names", f".{name}_names"))
        Config.fromfile(getattr(pair, name.removeprefix("my_"))).dump(tmp_path / f"{name}_names.py")
        code = code.replace(f'"{name}', f'"{tmp_path / name}')
    shutil.copy(pair.folder / "teacher.pth", tmp_path / "my_teacher.pth")
    (tmp_path / "my_pair.py").write_text(code)
    saved = tmp_path / "run"
    run_tool("train.py", tmp_path / "my_pair.py", "--work-dir", saved)
    assert any("distill.loss_tisd" in log.read_text() for log in saved.rglob("*.log"))
    run_tool(
        "train.py", saved / "my_pair.py", "--resume", "--work-dir", saved, "--cfg-options", "train_cfg.max_iters=4"
    )
    run_tool("test.py", saved / "my_pair.py", saved / "iter_4.pth", "--work-dir", tmp_path / "test")
    run_tool("export_student.py", saved / "iter_4.pth", "--out", tmp_path / "student.pth")
    exported = Config.fromstring(load_plain(tmp_path / "student.pth")["meta"]["cfg"], ".py")
    assert exported.model.roi_head.bbox_roi_extractor.roi_layer.type == "RoIAlign"
    assert exported.default_scope == "mmdet"
    MODELS.build(exported.model)
