"""One training of a study: its config, what it needs, and a digest of all that decides its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from rekd_det.datasets.synthetic.coco_writer import GENERATOR_VERSION
from rekd_det.utils.pair_config import trained_model
from studies.runner.digest import decisive_settings, digest_of
from studies.runner.spec import PRETRAIN, Arm, Pretraining, Study

#: digits of a digest that name files and folders
_SHORT = 12


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes:
        arm: name of its arm.
        kind: its config file's name: runs of one kind take about as long as each other.
        seed: of the training.
        config: merged with the arm's options; paths of data, teacher and first weights are not set yet.
        digest: equal for runs that must give the same result.
        data: arguments of the generator, or None for the config's own data.
        teacher: the run that trains its teacher, or None.
        backbone: the run that trains its student's backbone, or None.
        data_root: folder that takes the place of the config's own ``data_root``.
        validate: epochs between two validations, whose curve its result holds; 0 for none.
    """

    arm: str
    kind: str
    seed: int
    config: Config
    digest: str
    data: Mapping[str, Any] | None = None
    teacher: Run | None = None
    backbone: Run | None = None
    data_root: Path | None = None
    validate: int = 0

    @property
    def tested(self) -> bool:
        """Whether it trains a detector, and no backbone."""
        return self.arm != PRETRAIN

    @property
    def needs(self) -> list[Run]:
        """The runs that must be finished before it starts, including those that they need, in order."""
        direct = [run for run in (self.backbone, self.teacher) if run is not None]
        return list({run.digest: run for of in direct for run in [*of.needs, of]}.values())

    @property
    def length(self) -> int:
        """Epochs, or iterations where the config counts those."""
        loop = self.config.train_cfg
        return loop.get("max_epochs") or loop.max_iters

    @property
    def folder(self) -> str:
        """Name of its folder; runs of several studies share it where they are the same."""
        return f"{self.kind}-seed{self.seed}-{self.digest[:_SHORT]}"

    @property
    def student(self) -> Mapping:
        """The model config of the detector that learns."""
        return trained_model(self.config.model)[1]


def with_needs(runs: Iterable[Run]) -> list[Run]:
    """Runs and those that they need, each once and before what needs it."""
    runs = list(runs)
    return list({run.digest: run for run in [*(need for of in runs for need in of.needs), *runs]}.values())


def new_run(
    study: Study,
    arm: Arm,
    seed: int,
    config: Config,
    backbone: Run | None = None,
    teacher: Run | None = None,
) -> Run:
    """A run of an arm's merged config, with its digest; ``study`` is the arm's."""
    # Backbones are pre-trained on data of their own.
    data, root = (None, arm.data_root) if isinstance(arm, Pretraining) else (study.data, study.data_root)
    versioned = data and {**data, "version": GENERATOR_VERSION}
    needs = [run.digest for run in (backbone, teacher) if run is not None]
    digest = digest_of(decisive_settings(config, without_teacher=teacher is not None), versioned, seed, needs)
    return Run(arm.name, arm.config.stem, seed, config, digest, data, teacher, backbone, root, arm.validate)
