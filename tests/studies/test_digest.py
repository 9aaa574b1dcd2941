"""A digest holds all that decides a result, and nothing else; results and data that it fits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from study_files import PAIR, ROOT, line, write

from rekd_det.utils.errors import InputError
from studies.runner.annotations import annotations_of
from studies.runner.committed import Committed
from studies.runner.data import settled_data
from studies.runner.plan import make_plan
from studies.runner.run import with_needs
from studies.runner.run_study import report_study, run_study
from studies.runner.stamp import Stamp
from studies.runner.study_file import read_study


def digest(folder: Path, text: str, **changes) -> str:
    """Of the one run of a study whose arm is a config of this text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.py").write_text(text)
    arms = {"kd": {"config": str(folder / "config.py"), **changes}}
    return make_plan(read_study(write(folder, arms=arms, baseline="kd", seeds=[0])))[0].digest


def test_a_digest_knows_no_paths(tmp_path):
    student = f"_base_ = {str(ROOT / 'studies/configs/groceries_frcnn_student.py')!r}\n"
    here = digest(tmp_path / "a", student)
    for root in ("/elsewhere/groceries/", "../groceries"):
        moved = f"data_root = {root!r}\nloader = dict(dataset=dict(data_root=data_root))\n"
        moved += "train_dataloader = test_dataloader = val_dataloader = loader\n"
        moved += f"test_evaluator = dict(ann_file={os.path.join(root, 'annotations/instances_val.json')!r})\n"
        assert digest(tmp_path / "b", student + moved) == here
    own = [
        "work_dir = 'elsewhere'\nvariable = 3\nlog_level = 'ERROR'",
        "custom_imports = dict(imports=['rekd_det.version'])",
        "val_evaluator = dict(classwise=True)\ntrain_cfg = dict(val_interval=1)",
        "train_dataloader = dict(num_workers=0, pin_memory=True)\ndefault_hooks = dict(logger=dict(interval=3))",
    ]
    for text in own:
        assert digest(tmp_path / "c", f"{student}{text}\n") == here
    other = [
        "optim_wrapper = dict(optimizer=dict(lr=0.5))",
        "test_evaluator = dict(ann_file='data/groceries/annotations/instances_train.json')",
        "train_dataloader = dict(batch_size=3)",
        "custom_hooks = [dict(type='EMAHook')]",
        "load_from = '/weights/first.pth'",
        "default_hooks = dict(ema=dict(type='EMAHook'))",
        "default_hooks = dict(param_scheduler=None)",
    ]
    digests = [digest(tmp_path / "d", f"{student}{text}\n") for text in other]
    assert len({here, *digests}) == 1 + len(other)
    assert digest(tmp_path / "d", f"{student}load_from = 'https://x/first.pth'\n") == digests[4]


def test_a_pairs_own_teacher_is_what_its_config_says_wherever_it_lies(tmp_path):
    def pair(place: Path, width: int) -> str:
        place.mkdir(parents=True, exist_ok=True)
        teacher = place / "teacher.py"
        base = ROOT / "studies/configs/frcnn_student.py"
        teacher.write_text(f"_base_ = {str(base)!r}\nmodel = dict(backbone=dict(base_channels={width}))\n")
        checkpoint = str(place / "teacher.pth")
        return digest(
            place,
            f"_base_ = {PAIR!r}\nmodel = dict(teacher=dict(cfg_path={str(teacher)!r}), teacher_ckpt={checkpoint!r})",
        )

    assert pair(tmp_path / "a", 32) == pair(tmp_path / "b", 32) != pair(tmp_path / "c", 64)


@pytest.mark.parametrize("named", ["dict(_delete_=True, cfg_path={!r})", "{!r}"])
@pytest.mark.parametrize("key", ["architecture", "teacher"])
def test_a_detector_by_file_is_what_the_file_says(tmp_path, key, named):
    def pair(place: str, width: int) -> str:
        file = tmp_path / place / "detector.py"
        file.parent.mkdir(exist_ok=True)
        base = ROOT / "studies/configs/frcnn_student.py"
        file.write_text(f"_base_ = {str(base)!r}\nmodel = dict(backbone=dict(base_channels={width}))\n")
        return digest(tmp_path / place, f"_base_ = {PAIR!r}\nmodel = dict({key}={named.format(str(file))})")

    assert pair("a", 32) == pair("b", 32) != pair("c", 64)


def test_a_checkpoint_is_its_content_where_it_is_there(tmp_path):
    def with_teacher(place: str, content: bytes) -> str:
        (tmp_path / place).mkdir(exist_ok=True)
        checkpoint = tmp_path / place / "epoch_12.pth"
        checkpoint.write_bytes(content)
        return digest(tmp_path, f"_base_ = {PAIR!r}\nmodel = dict(teacher_ckpt={str(checkpoint)!r})")

    assert with_teacher("a", b"one") == with_teacher("b", b"one") != with_teacher("c", b"other")
    before = with_teacher("d", b"one")
    assert with_teacher("d", b"trained again") != before


def test_a_folder_of_a_run_on_other_annotations_stops_the_study(tmp_path):
    config = ROOT / "studies/configs/groceries_frcnn_student.py"
    study = read_study(write(tmp_path, data_root="data", arms={"alone": {"config": str(config)}}, seeds=[0]))
    (run,) = make_plan(study)
    (tmp_path / "data/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"data/annotations/instances_{split}.json").write_text("{}")
    folder = tmp_path / "out/runs" / run.folder
    folder.mkdir(parents=True)
    Stamp(run.digest, starts=1, annotations=annotations_of(run)).write(folder)
    report_study(study, tmp_path / "out")
    (tmp_path / "data/annotations/instances_train.json").write_text("{'corrected': 1}")
    annotations = tmp_path / "data/annotations/instances_train.json"
    os.utime(annotations, ns=(1, 1))  # a clock may be too coarse to tell the two apart
    for call in (lambda: report_study(study, tmp_path / "out"), lambda: run_study(study, tmp_path / "out", tmp_path)):
        with pytest.raises(InputError, match=f"{run.folder}' was trained on other annotation files or images .* --out"):
            call()


def test_a_result_on_other_annotations_does_not_count(tmp_path):
    config = ROOT / "studies/configs/groceries_frcnn_student.py"
    study = read_study(write(tmp_path, data_root="data", arms={"alone": {"config": str(config)}}, seeds=[0]))
    (run,) = make_plan(study)
    settled = settled_data(run)
    assert settled.train_dataloader.dataset.data_root == f"{tmp_path}/data/"
    assert settled.test_evaluator.ann_file == f"{tmp_path}/data/annotations/instances_val.json"
    assert settled.train_dataloader.dataset.pipeline[2].scale == (128, 128)  # and no list
    told = line("alone", 0, 0.25, digest=run.digest, annotations={"train": "1" * 64, "test": "2" * 64})
    (tmp_path / "results/x").mkdir(parents=True)
    (tmp_path / "results/x/results.jsonl").write_text(json.dumps(told) + "\n")
    assert (
        Committed(tmp_path / "results").of(run)["metrics"] == told["metrics"]
    )  # no data here: it can only be believed
    (tmp_path / "data/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"data/annotations/instances_{split}.json").write_text("{}")
    assert Committed(tmp_path / "results").of(run) is None
    here = line("alone", 0, 0.5, digest=run.digest, annotations=annotations_of(run))
    (tmp_path / "results/y").mkdir()  # read after the other one of the same digest
    (tmp_path / "results/y/results.jsonl").write_text(json.dumps(here) + "\n")
    assert Committed(tmp_path / "results").of(run)["metrics"] == here["metrics"]


def test_data_that_is_not_there_shows_before_anything_is_trained(tmp_path):
    config = ROOT / "studies/configs/groceries_frcnn_student.py"
    path = write(tmp_path, data_root="data", arms={"alone": {"config": str(config)}}, seeds=[0])
    with pytest.raises(
        InputError, match=r"arm 'alone': .*/data/annotations/instances_train\.json' does not exist.*data_root"
    ):
        run_study(read_study(path), tmp_path / "out", tmp_path)
    assert not (tmp_path / "out/runs").exists()


def test_folders_of_images_are_told_apart_by_their_files(tmp_path, pretrained):
    def told(missing: str) -> dict:
        folder = tmp_path / f"without {missing}"
        shutil.copytree(pretrained.parent / "photographs", folder / "photographs")
        (folder / "photographs/train/cat" / missing).unlink(missing_ok=True)
        study = shutil.copy(pretrained, folder / "study.yml")
        run = with_needs(make_plan(read_study(Path(study))))[0]
        assert run.arm == "pretrain"
        return annotations_of(run)

    first, again, other = map(told, ("nothing", "nobody", "3.JPEG"))
    assert first == again and first["train"] != other["train"] and first["test"] == other["test"]
