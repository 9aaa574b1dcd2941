"""Arms of one seed start from the same weights and draw the same random numbers."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import torch
from study_files import ROOT, shipped_plan

from rekd_det.utils.read_as_data import load_plain
from studies.runner.first_weights import write_first_weights
from studies.runner.step_seed import StepSeedHook


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
