"""Study files: the shipped ones can be planned, mistakes are named."""

from __future__ import annotations

import json

import pytest
from study_files import PAIR, ROOT, STUDENT, TEACHER, shipped_plan, write

from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair
from studies.runner.plan import make_plan
from studies.runner.run import with_needs
from studies.runner.study_file import read_study

STUDIES = sorted((ROOT / "studies").glob("*.yml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_shipped_studies_can_be_planned(path):
    study = read_study(path)
    plan = shipped_plan(path)
    assert study.name == path.stem
    assert {(run.arm, run.seed) for run in plan} == {(arm.name, seed) for arm in study.arms for seed in arm.seeds}
    for run in plan:
        assert (run.teacher is None) == (path.stem == "coco" or not is_pair(run.config.model))
        assert (run.backbone is None) == (study.pretrain is None)
        assert run.length > 1 or path.stem == "tiny"


@pytest.mark.parametrize("path", [p for p in STUDIES if (p.parent / "results" / p.stem).is_dir()], ids=lambda p: p.stem)
def test_committed_results_are_those_of_the_shipped_studies(path):
    """If this fails after a change that makes no difference to a training, the digest has seen something that it should
    not see. If the change does make one, the results are of another training: remove their lines."""
    lines = (path.parent / "results" / path.stem / "results.jsonl").read_text().splitlines()
    digests = {run.digest for run in with_needs(shipped_plan(path))}
    finished = [entry for entry in map(json.loads, lines) if entry["status"] == "ok"]
    assert finished
    assert [f"{entry['arm']}, seed {entry['seed']}" for entry in finished if entry["digest"] not in digests] == []


def test_studies_share_equal_runs():
    plans = [shipped_plan(ROOT / f"studies/groceries_{name}.yml") for name in ("frcnn", "schedule")]
    served, others = ({run.folder for run in with_needs(plan)} - {run.folder for run in plan} for plan in plans)
    assert others == served and len(served) == 3  # the teacher and two backbones
    folders, again = ({(run.arm, run.seed): run.folder for run in plan} for plan in plans)
    for arm, same in (("student", "epochs_36"), ("kd", "kd_36"), ("rekd", "rekd_36")):
        assert [folders[arm, seed] for seed in range(3)] == [again[same, seed] for seed in range(3)]
    assert len(set(folders.values())) == len(folders)  # no two arms or seeds are one run


def test_detectors_that_read_other_levels_of_a_backbone_share_its_pre_training():
    gfl, dino = (
        {
            run.folder
            for run in with_needs(shipped_plan(ROOT / f"studies/groceries_{name}.yml"))
            if run.arm == "pretrain"
        }
        for name in ("gfl", "dino")
    )
    assert gfl == dino and len(dino) == 2


def test_an_arm_can_have_its_own_seeds(tmp_path):
    arms = {
        "alone": {"config": STUDENT, "seeds": [0, 1, 7]},
        "kd": {"config": PAIR},
        "rekd": {"config": PAIR, "options": {"model.distiller.loss.beta": 3.0}, "seeds": [7]},
    }
    plan = make_plan(read_study(write(tmp_path, seeds=[0, 1], arms=arms)))
    assert [(run.arm, run.seed) for run in plan] == [
        *(("alone", 0), ("kd", 0), ("rekd", 7)),
        *(("alone", 1), ("kd", 1)),
        ("alone", 7),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name=...), "'name' is missing"),
        (dict(name="../up"), "name must be one word"),
        (dict(seed=[0]), "the key 'seed' is unknown; did you mean 'seeds'"),
        (dict(seeds=[]), "seeds must be whole numbers from 0"),
        (dict(seeds=[True]), "seeds must be whole numbers from 0"),
        (dict(seeds=[2**32]), r"seeds must be whole numbers from 0 to 2\*\*32 - 1"),
        (dict(seeds=[0, 0]), "a seed is given twice"),
        (dict(baseline="no"), r"baseline must be one of the arms \(alone, kd\)"),
        (dict(against=["kd", "no"]), r"against must be a list of arms \(alone, kd\), got \['kd', 'no'\]"),
        (dict(against="kd"), "against must be a list of arms"),
        (
            dict(arms={"alone": {"config": STUDENT}, "kd": {"config": PAIR, "seeds": [1, 3, 2]}}),
            r"arms\.kd\.seeds: the baseline 'alone' has no seed 2, 3, .* give it to arms\.alone\.seeds too",
        ),
        (dict(arms=["alone"]), "arms must be a mapping"),
        (dict(arms={"alone": {"config": STUDENT, "option": {}}}), "arms.alone: the key 'option' is unknown; did you"),
        (dict(arms={"alone": {"options": {"a": 1}}}), "arms.alone.config must be the path"),
        (dict(arms={"alone": {"config": "gone.py"}}), r"arms.alone.config: '.*gone.py' does not exist"),
        (dict(arms={"alone": {"config": STUDENT, "options": ["a=1"]}}), "arms.alone.options must be a mapping"),
        (dict(arms={"teacher": {"config": STUDENT}}), "'teacher' names a training that the arms build on"),
        (dict(arms={"pretrain": {"config": STUDENT}}), "'pretrain' names a training that the arms build on"),
        (dict(pretrain={"config": STUDENT, "data": {"seed": 1}}), "pretrain: .*'data' is unknown; .* 'data_root'"),
        (dict(pretrain={"config": STUDENT, "seed": -1}), "pretrain.seed must be whole numbers"),
        (dict(data={"preset": "tiny", "images": 3}), "data: the key 'images' is unknown"),
        (dict(data={"seed": 0}), "data: the key 'preset' is missing"),
        (dict(data_root=3), "data_root must be the path of a folder"),
        (dict(arms={"alone": {"config": STUDENT, "validate": -1}}), "arms.alone.validate must be a whole number"),
        (dict(teacher={"config": STUDENT, "seed": -1}), "teacher.seed must be whole numbers"),
        (
            dict(arms={"alone": {"config": STUDENT}, "kd": {"config": PAIR, "teacher": {"config": STUDENT}}}),
            r"arms\.kd\.teacher must be the name of one of the study's teachers, got {",
        ),
        (dict(arms={"alone": {"config": STUDENT, "pair": ["x"]}}), r"arms\.alone\.pair must be the name of one"),
        (dict(options={1: 3}), "options: a key of the config is text, got 1"),
        (dict(pairs={"a/b": {"baseline": "alone"}}), "pairs: a pair's name must be one word"),
        (
            dict(
                arms={"alone": {"config": STUDENT, "pair": "p"}},
                pairs={"p": {"baseline": "alone", "zoo": {"student": {"bbox_mAP": "37"}}}},
            ),
            r"pairs\.p\.zoo\.student\.bbox_mAP must be a number, got '37'",
        ),
    ],
)
def test_mistakes_in_a_study_file_are_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_study(write(tmp_path, **changes))


def test_a_name_that_is_given_twice_is_an_error(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + f"  kd:\n    config: {PAIR}\n")
    with pytest.raises(InputError, match="'kd' is given twice"):
        read_study(path)


def test_powers_of_ten_are_numbers(tmp_path):
    path = write(tmp_path)
    numbers = {"1e-3": 1e-3, "-2.5E4": -2.5e4, "1.5": 1.5, "3": 3, "1e3x": "1e3x", "'1e-3'": "1e-3"}
    text = "".join(f"  k{i}: {number}\n" for i, number in enumerate(numbers))
    path.write_text(f"{path.read_text()}options:\n{text}")
    assert list(read_study(path).arms[0].options.values()) == list(numbers.values())


def test_a_tuple(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + "options:\n  scale: !tuple [160, 96]\n")
    assert read_study(path).arms[0].options == {"scale": (160, 96)}


def test_no_file_and_no_yaml(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yml' can't be read"):
        read_study(tmp_path / "gone.yml")
    (tmp_path / "broken.yml").write_text("arms: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_study(tmp_path / "broken.yml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.distiller.loss.topk": 3}, "arm 'kd': .*topk"),
        ({"model.distiller.loss.top_k": 0}, "arm 'kd': .*top_k must be an int >= 1"),
        ({"optim_wraper.optimizer.lr": 1}, "arm 'kd': .*optim_wraper.*did you mean 'optim_wrapper'"),
        ({"model.distiler.rows": "all"}, "arm 'kd': model.distiler: ReKDDistill has no .*did you mean 'distiller'"),
        ({"model.distiller": None}, "arm 'kd': model.distiller must be a dict, got None"),
        ({"model": "x"}, "arm 'kd': model must be a dict, got 'x'"),
        ({"train_cfg.max_epochs": 0}, "arm 'kd': train_cfg must have max_epochs or max_iters, a whole number >= 1"),
        ({"train_cfg": None}, "arm 'kd': train_cfg must have"),
        ({"test_evaluator": None}, "arm 'kd': test_evaluator is missing"),
    ],
)
def test_options_that_do_not_fit_show_before_anything_is_trained(tmp_path, options, message):
    arms = {"alone": {"config": STUDENT}, "kd": {"config": PAIR, "options": options}}
    with pytest.raises(InputError, match=message):
        make_plan(read_study(write(tmp_path, arms=arms)))


def test_a_teacher_of_a_detector_that_learns_alone_is_an_error(tmp_path):
    arms = {"alone": {"config": STUDENT, "teacher": "big"}}
    path = write(tmp_path, arms=arms, teachers={"big": {"config": TEACHER}})
    with pytest.raises(InputError, match=r"arms\.alone: '.*' is not a pair and can't use a `teacher`"):
        make_plan(read_study(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test_evaluator": dict(type="VOCMetric", _delete_=True)},
            "test_evaluator.type=VOCMetric: a study compares the AP",
        ),
        ({"test_evaluator.metric": "bbx"}, "arm 'alone': .*CocoMetric.* can't be built: metric should be one of"),
        ({"test_dataloader.dataset.test_mod": True}, "arm 'alone': .*no option 'test_mod'; did you mean 'test_mode'"),
        ({"train_dataloader.dataset.pipeline.0.type": "Load"}, "arm 'alone': .*Load is not in the"),
        ({"model.roi_head.bbox_head.num_clases": 3}, "arm 'alone': .*no option 'num_clases'; did you mean"),
        (None, "arm 'kd': model.teacher_ckpt: 'work_dirs/study/frcnn_teacher.pth' does not exist.* under `teacher`"),
    ],
)
def test_what_the_test_needs_is_built_before_anything_is_trained(tmp_path, run_tool, options, message):
    data = dict(preset="study", seed=0, train=12, val=12, size=64)
    arms = {"alone": {"config": STUDENT, "options": options}} if options else {"alone": {"config": STUDENT}}
    arms |= {} if options else {"kd": {"config": PAIR}}
    path = write(tmp_path, data=data, arms=arms, seeds=[0])
    with pytest.raises(SystemExit, match=message):
        run_tool("study.py", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out/runs").exists()


def test_two_arms_that_are_the_same_are_an_error(tmp_path):
    arms = {"alone": {"config": STUDENT}, "again": {"config": STUDENT}}
    with pytest.raises(InputError, match=r"arms\.again trains the same as arms\.alone"):
        make_plan(read_study(write(tmp_path, arms=arms)))


@pytest.mark.parametrize("config", [STUDENT, PAIR], ids=["detector", "pair"])
def test_a_detector_can_not_train_the_backbones(tmp_path, config):
    with pytest.raises(InputError, match=r"pretrain\.config: .*must hold a backbone.*/tiny_imagenet_backbone\.py"):
        make_plan(read_study(write(tmp_path, pretrain={"config": config})))


def test_a_default_that_every_arm_overrides_does_not_make_another_run(tmp_path):
    def digest(default: float) -> str:
        base = tmp_path / "base.py"
        base.write_text(f"_base_ = {PAIR!r}\ndistill = dict(distiller=dict(loss=dict(beta={default})))\n")
        arms = {"kd": {"config": str(base), "options": {"model.distiller.loss.beta": 0.5}}}
        return make_plan(read_study(write(tmp_path, arms=arms, baseline="kd")))[0].digest

    assert digest(0.25) == digest(2.0)
