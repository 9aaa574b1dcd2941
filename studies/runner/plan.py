"""Which trainings a study consists of."""

from __future__ import annotations

from dataclasses import dataclass

from studies.runner.arm_config import read_arm_config
from studies.runner.needs import Backbones, Teachers
from studies.runner.run import Run, new_run, with_needs
from studies.runner.spec import Study, StudyError


@dataclass(frozen=True)
class Plan:
    """The runs of a study, in the order in which they start.

    Attributes:
        runs: all arms with their first seed, then with their second, so that a stopped study has whole seeds.
    """

    runs: tuple[Run, ...]

    def all(self) -> list[Run]:
        """All, with what they need."""
        return with_needs(self.runs)


def make_plan(study: Study) -> Plan:
    """Read all configs and build every distillation loss, so that mistakes show before anything is trained.

    Raises:
        InputError: an arm's config or options can't be used, or two arms are the same.
    """
    backbones = Backbones(study)
    teachers = Teachers(study, backbones)
    runs = []
    by_digest: dict[str, str] = {}
    configs = {arm.name: read_arm_config(arm) for arm in study.arms}
    rounds = max(len(arm.seeds) for arm in study.arms)
    for seed, arm in [(arm.seeds[i], arm) for i in range(rounds) for arm in study.arms if i < len(arm.seeds)]:
        config = configs[arm.name]
        run = new_run(study, arm, seed, config, backbones.of(config), teachers.of(arm, config))
        if by_digest.setdefault(run.digest, arm.name) != arm.name:
            raise StudyError(f"arms.{arm.name} trains the same as arms.{by_digest[run.digest]}; leave one out")
        runs.append(run)
    return Plan(tuple(runs))
