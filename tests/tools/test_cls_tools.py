"""The command lines on a pair of tiny classifiers: from a folder of pictures to the exported student."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from forked_tool import free_port, start, wait
from mmengine.config import Config
from mmengine.fileio import load
from same_bits import assert_equal

from rekd_det.utils.read_as_data import load_plain

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("blue", "green", "red")

_BASE = """
_base_ = ['{root}/configs/cls/student_r18w16_tinyimagenet.py', '{root}/configs/_base_/rekd.py']
data_preprocessor = dict(num_classes=3)
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32, topk=(1, 2)),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]),
    ),
    teacher=dict(cfg_path='{folder}/teacher.py'),
    teacher_ckpt='{folder}/teacher.pth',
)
model["distiller"]["loss"]["top_k"] = 2
custom_hooks = _base_.custom_hooks
train_dataloader = dict(batch_size=6, num_workers=0, persistent_workers=False, dataset=dict(data_root='{folder}'))
val_dataloader = dict(batch_size=6, num_workers=0, persistent_workers=False, dataset=dict(data_root='{folder}'))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, 2))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
"""

_ALONE = """
_base_ = '{pair}'
model = dict(_delete_=True, **{{k: v for k, v in _base_.model.architecture.items() if k != 'train_cfg'}})
custom_hooks = []
"""

_TEACHER = """
_base_ = '{root}/configs/cls/teacher_r18_tinyimagenet.py'
data_preprocessor = dict(num_classes=3, mean=[100.0, 100.0, 100.0], std=[50.0, 50.0, 50.0], to_rgb=False)
model = dict(
    backbone=dict(type='ResNet', stem_channels=8, base_channels=8),
    head=dict(num_classes=3, in_channels=64, topk=(1, 2)),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers")
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for channel, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                image = generator.integers(0, 90, (64, 64, 3), dtype=np.uint8)
                image[:, :, channel] += 120
                cv2.imwrite(str(folder / split / name / f"{name}{number}.png"), image)
    (folder / "pair.py").write_text(_BASE.format(root=ROOT, folder=folder))
    (folder / "teacher.py").write_text(_TEACHER.format(root=ROOT, folder=folder))
    from mmdet.registry import MODELS

    from rekd_det.utils.pair_config import resolve_model_config

    torch.manual_seed(0)
    teacher = MODELS.build(resolve_model_config(str(folder / "teacher.py")))
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(meta=meta, state_dict=teacher.state_dict()), folder / "teacher.pth")
    return folder


def tool(name, *arguments, cwd, ok=True):
    output = cwd / "output.txt"
    output.unlink(missing_ok=True)
    if name.endswith(".sh"):
        command = [str(ROOT / "tools" / name), *map(str, arguments)]
        environment = dict(os.environ, PYTHON=sys.executable, PORT=str(free_port()))
        with output.open("w") as file:
            code = subprocess.run(command, cwd=cwd, env=environment, stdout=file, stderr=file, check=False).returncode
    else:
        (code,) = wait(start(name, arguments, output, cwd))
    said = output.read_text()
    assert (code == 0) is ok, said[-3000:]
    return said


@pytest.fixture(scope="module")
def trained(folder):
    log = tool("train.py", folder / "pair.py", "--work-dir", folder / "run", cwd=folder)
    assert "distill.loss_ntid" in log and "loss_cls" in log and "accuracy/top1" in log
    return folder / "run" / "epoch_1.pth"


@pytest.mark.slow
def test_the_student_is_tested_exported_and_loaded_by_mmpretrain(folder, trained):
    tested = tool("test.py", folder / "pair.py", trained, "--tta", "--work-dir", trained.parent, cwd=folder)
    assert "accuracy/top1" in tested and "will replace" not in tested  # the checkpoints there
    shown = tool(
        "test.py", folder / "pair.py", "--teacher", "--show-dir", "seen", "--work-dir", folder / "t", cwd=folder
    )
    assert "accuracy/top1" in shown
    assert len(list((folder / "t" / "seen").rglob("*.png"))) == 12
    tool("export_student.py", trained, "-o", folder / "student.pth", cwd=folder)
    exported = torch.load(folder / "student.pth", weights_only=True)
    cfg = Config.fromstring(exported["meta"]["cfg"], ".py")
    assert "rekd" not in exported["meta"]["cfg"]
    from mmpretrain.registry import MODELS

    model = MODELS.build(dict(cfg.model, _scope_="mmpretrain"))
    model.load_state_dict(exported["state_dict"])


@pytest.mark.slow
def test_two_processes_train_and_test(folder):
    def scores(name, *arguments):
        tool(name, folder / "pair.py", *arguments, "--out", folder / "found.pkl", cwd=folder)
        return {Path(image["img_path"]).name: image["pred_score"] for image in load(folder / "found.pkl")}

    checkpoint = folder / "two" / "epoch_1.pth"
    tool("dist_train.sh", folder / "pair.py", 2, "--work-dir", checkpoint.parent, cwd=folder)
    two, one = scores("dist_test.sh", checkpoint, 2), scores("test.py", checkpoint)
    assert len(one) == 12
    torch.testing.assert_close(two, one)


@pytest.mark.slow
def test_a_killed_training_resumes_exactly(folder):
    config = folder / "watched.py"
    config.write_text(
        f"_base_ = '{folder}/pair.py'\n"
        "custom_imports = dict(imports=['rekd_det', 'odd_parts'], allow_failed_imports=False)\n"
        "custom_hooks = [*_base_.custom_hooks, dict(type='Watched')]\n"
        "train_cfg = dict(max_epochs=2)\n"
    )

    def train(work_dir, *arguments, kill=""):
        output = folder / f"{work_dir}.txt"
        words = [config, "--work-dir", folder / work_dir, *arguments]
        codes = wait(start("train.py", words, output, folder, dict(KILL=kill)))
        assert codes == [-signal.SIGKILL if kill else 0], output.read_text()[-3000:]
        return output.read_text()

    train("whole")
    train("killed", kill="iter 3")
    assert "resumed epoch: 1, iter: 2" in train("killed", "--resume")
    whole, killed = (load_plain(folder / name / "epoch_2.pth") for name in ("whole", "killed"))
    for key in ("state_dict", "optimizer", "generator_states"):  # Mixup draws from the main process's generators
        assert_equal(killed[key], whole[key], key)


@pytest.mark.slow
def test_a_pair_is_checked_with_its_teachers_accuracy(folder):
    text = tool("check_pair.py", folder / "pair.py", "--limit", 6, cwd=folder, ok=False)
    assert "ImageClassifier" in text and "rows: images, 3 classes" in text
    assert "converted for the teacher (other channel order, other mean or std)" in text
    assert "Teacher on 6 test images" in text and "accuracy/top1" in text
    checkpoint = torch.load(folder / "teacher.pth", weights_only=True)
    checkpoint["meta"]["dataset_meta"]["classes"] = CLASSES[::-1]
    torch.save(checkpoint, folder / "reordered.pth")
    other = ("--cfg-options", f"model.teacher_ckpt={folder}/reordered.pth")
    text = tool("check_pair.py", folder / "pair.py", "--limit", 6, *other, cwd=folder, ok=False)
    assert "category 0 is 'blue' in the data set and 'red' for the teacher: the order differs" in text


@pytest.mark.slow
def test_head_and_tail_of_a_classifier(folder, trained):
    arguments = ("--checkpoint", trained, "--split", "val", "--workers", 0, "--out", folder / "ht")
    assert "Suggested K" in (text := tool("analysis/head_tail.py", folder / "pair.py", *arguments, cwd=folder)) or (
        "No K up to" in text
    )
    table = (folder / "ht" / "head_mass.csv").read_text()
    assert "object" in table and "background" not in table


@pytest.mark.slow
def test_missing_images_are_named_before_training(folder):
    option = "train_dataloader.dataset.data_root=/nowhere"
    text = tool("train.py", folder / "pair.py", "--cfg-options", option, cwd=folder, ok=False)
    assert "train_dataloader.dataset.data_prefix: '/nowhere/train' does not exist" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_labels_and_folders_that_do_not_fit(folder, trained, tmp_path):
    """Of a student alone too: torch would say that a target is out of bounds, or nothing."""
    (tmp_path / "alone.py").write_text(_ALONE.format(pair=folder / "pair.py"))
    text = tool("train.py", tmp_path / "alone.py", "--cfg-options", "model.head.num_classes=2", cwd=tmp_path, ok=False)
    assert "model.head.num_classes=2, but train_dataloader.dataset has 3 categories" in text
    assert "Traceback" not in text
    (tmp_path / "list.txt").write_text("blue/blue0.png 0\nred/red0.png 3\n")
    unnamed = [f"train_dataloader.dataset.{o}" for o in (f"ann_file={tmp_path / 'list.txt'}", "with_label=True")]
    text = tool("train.py", tmp_path / "alone.py", "--cfg-options", *unnamed, cwd=tmp_path, ok=False)
    assert "image number 1 of train_dataloader.dataset has label 3, and model.head.num_classes=3: labels go" in text
    (tmp_path / "val").mkdir()
    for name in ("blue", "red"):
        (tmp_path / "val" / name).symlink_to(folder / "val" / name)
    fewer = f"dataloader.dataset.data_root={tmp_path}"
    text = tool("train.py", tmp_path / "alone.py", "--cfg-options", f"val_{fewer}", cwd=tmp_path, ok=False)
    assert "category 1 is 'green' in the training set, which has 3 categories, and 'red'" in text
    text = tool("test.py", folder / "pair.py", trained, "--cfg-options", f"test_{fewer}", cwd=tmp_path)
    assert "was trained on 3 categories, 'blue', 'green', 'red'; the test set has 2, 'blue', 'red'" in text


@pytest.mark.slow
def test_where_a_student_is_right(folder, trained):
    arguments = (trained, "--workers", 0, "--out", folder / "right.csv")
    text = tool("analysis/image_accuracy.py", folder / "pair.py", *arguments, "--top-k", 3, cwd=folder, ok=False)
    assert "--top-k 3 leaves no tail: the head has 3 logits per row" in text
    assert "top1_in_set" in tool("analysis/image_accuracy.py", folder / "pair.py", *arguments, cwd=folder)
    assert (folder / "right.csv").read_text().startswith("student,top1,teacher,label_in_set,top1_in_set,easy")
