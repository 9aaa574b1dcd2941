"""Which trainings a study consists of."""

from __future__ import annotations

from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair
from studies.runner.arm_config import read_arm_config
from studies.runner.needs import Backbones, Teachers
from studies.runner.run import Run, new_run
from studies.runner.spec import Study


def make_plan(study: Study) -> list[Run]:
    """Read all configs and build every distillation loss, so that mistakes show before anything is trained.

    Returns:
        All arms with their first seed, then with their second, so that a stopped study has whole seeds. What they need
        is not among them, see :func:`studies.runner.run.with_needs`.

    Raises:
        InputError: an arm's config or options can't be used, or two arms are the same.
    """
    backbones = Backbones(study)
    teachers = Teachers(study, backbones)
    for unused in study.teachers.keys() - {arm.taught_by for arm in (*study.arms, *study.teachers.values())}:
        raise InputError(f"teachers.{unused} teaches no arm: name it as an arm's `teacher`, or leave it out")
    runs = []
    by_digest: dict[str, str] = {}
    configs = {arm.name: read_arm_config(arm) for arm in study.arms}
    rounds = max(len(arm.seeds) for arm in study.arms)
    for seed, arm in [(arm.seeds[i], arm) for i in range(rounds) for arm in study.arms if i < len(arm.seeds)]:
        config = configs[arm.name]
        if arm.taught_by is not None and not is_pair(config.model):
            raise InputError(f"arms.{arm.name}: '{arm.config}' is not a pair and can't use a `teacher`")
        run = new_run(study, arm, seed, config, backbones.of(config), teachers.of(arm, config))
        if by_digest.setdefault(run.digest, arm.name) != arm.name:
            raise InputError(f"arms.{arm.name} trains the same as arms.{by_digest[run.digest]}; leave one out")
        runs.append(run)
    return runs
