"""Arms of one seed start from the same weights and draw the same random numbers."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import torch
from study_files import ROOT, STUDENT, shipped_plan, write

from rekd_det.utils.read_as_data import load_plain
from studies.runner.first_weights import write_first_weights
from studies.runner.plan import make_plan
from studies.runner.step_seed import StepSeedHook
from studies.runner.study_file import read_study


def test_arms_of_one_seed_share_their_first_weights(tmp_path):
    plan = shipped_plan(ROOT / "studies/groceries_frcnn.yml")
    paths = [write_first_weights(run, tmp_path) for run in plan if run.seed < 2 and run.arm in ("student", "kd")]
    assert paths[0] == paths[1] != paths[2] == paths[3]
    one, other = (load_plain(p)["state_dict"] for p in (paths[0], paths[2]))
    assert not torch.equal(one["roi_head.bbox_head.fc_cls.weight"], other["roi_head.bbox_head.fc_cls.weight"])
    paths[0].unlink()
    write_first_weights(plan[0], tmp_path)
    again = load_plain(paths[0])["state_dict"]
    assert all(torch.equal(again[k], v) for k, v in one.items())


def test_a_steps_random_numbers_depend_on_seed_and_step_alone():
    def draw(seed: int, step: int) -> tuple[float, float, float]:
        torch.rand(step + seed + 1)  # whatever went before
        StepSeedHook().before_train_iter(SimpleNamespace(seed=seed, iter=step), 0)
        return torch.rand(()).item(), np.random.rand(), random.random()

    first = draw(0, 0)
    assert draw(0, 0) == first
    others = [draw(0, 1), draw(1, 0)]
    assert all(a != b for other in others for a, b in zip(first, other, strict=True))


def test_weights_that_a_student_starts_from_are_read_again_when_they_have_changed(tmp_path):
    backbone = tmp_path / "backbone.pth"
    init = dict(type="Pretrained", checkpoint=str(backbone), prefix="backbone.", _delete_=True)
    config = tmp_path / "student.py"
    config.write_text(f"_base_ = {STUDENT!r}\nmodel = dict(backbone=dict(init_cfg={init!r}))\n")
    arms = {"alone": {"config": str(config)}}

    def first_weights(added: float):
        plain = write_first_weights(shipped_plan(ROOT / "studies/tiny.yml")[0], tmp_path)
        weights = {k: v + added for k, v in load_plain(plain)["state_dict"].items()}
        torch.save({"state_dict": weights}, backbone)
        (run,) = make_plan(read_study(write(tmp_path, arms=arms, seeds=[0])))
        return load_plain(write_first_weights(run, tmp_path))["state_dict"]["backbone.conv1.weight"]

    torch.testing.assert_close(first_weights(1.0) + 1, first_weights(2.0))
