"""Which trainings a study consists of, each with its config and a digest of all that decides its result."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrazor.registry import MODELS

from rekd_det.apis.preflight import read_config
from rekd_det.datasets.synthetic.coco_writer import GENERATOR_VERSION
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair
from studies.runner.spec import PRETRAIN, Arm, Pretraining, Study, StudyError

#: digits of a digest that name files and folders
_SHORT = 12
#: variables of `configs/_base_` that configs read; what they made of them stands in `model` and `custom_hooks`
_TEMPLATES = ("distill", "rekd_hooks")


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
        serves: whether others need its checkpoint.
    """

    arm: str
    kind: str
    seed: int
    config: Config
    digest: str
    data: Mapping[str, Any] | None = None
    teacher: Run | None = None
    backbone: Run | None = None
    serves: bool = False

    @property
    def tested(self) -> bool:
        """Whether it trains a detector, and no backbone."""
        return self.arm != PRETRAIN

    @property
    def needs(self) -> list[Run]:
        """The runs that must be finished before it starts, those that they need included; first things first."""
        direct = [run for run in (self.backbone, self.teacher) if run is not None]
        return list({run.digest: run for of in direct for run in [*of.needs, of]}.values())

    @property
    def folder(self) -> str:
        """Name of its folder; runs of several studies share it where they are the same."""
        return f"{self.kind}-seed{self.seed}-{self.digest[:_SHORT]}"

    @property
    def student(self) -> Mapping:
        """The model config of the detector that learns."""
        model = self.config.model
        return model.architecture if is_pair(model) else model


@dataclass(frozen=True)
class Plan:
    """The runs of a study, in the order in which they start.

    Attributes:
        runs: by seed and then by arm, so that a stopped study has whole seeds.
    """

    runs: tuple[Run, ...]

    def all(self) -> list[Run]:
        """All, with what they need."""
        return with_needs(self.runs)


def with_needs(runs: Iterable[Run]) -> list[Run]:
    """Runs and those that they need, each once and before what needs it."""
    runs = list(runs)
    return list({run.digest: run for run in [*(need for of in runs for need in of.needs), *runs]}.values())


def make_plan(study: Study) -> Plan:
    """Read all configs and build every distillation loss, so that mistakes show before anything is trained.

    Raises:
        InputError: an arm's config or options can't be used, or two arms are the same.
    """
    backbones = _Backbones(study)
    teacher = None
    if study.teacher is not None:
        config = _read(study.teacher)
        if is_pair(config.model):
            raise StudyError(f"teacher.config: '{study.teacher.config}' is a pair; a teacher learns alone")
        teacher = _run(study, study.teacher, study.teacher.seed, config, backbones.of(config), serves=True)
    runs = []
    by_digest: dict[str, str] = {}
    configs = {arm.name: _read(arm) for arm in study.arms}
    for seed in study.seeds:
        for arm in study.arms:
            config = configs[arm.name]
            of = teacher if is_pair(config.model) else None
            run = _run(study, arm, seed, config, backbones.of(config), of)
            if by_digest.setdefault(run.digest, arm.name) != arm.name:
                raise StudyError(f"arms.{arm.name} trains the same as arms.{by_digest[run.digest]}; leave one out")
            runs.append(run)
    return Plan(tuple(runs))


def _run(
    study: Study,
    arm: Arm,
    seed: int,
    config: Config,
    backbone: Run | None = None,
    teacher: Run | None = None,
    serves: bool = False,
) -> Run:
    own = arm.data if isinstance(arm, Pretraining) else {}
    data = None if study.data is None else {**study.data, **own}
    versioned = data and {**data, "version": GENERATOR_VERSION}
    needs = [run.digest for run in (backbone, teacher) if run is not None]
    digest = digest_of(_settings(config, without_teacher=teacher is not None), versioned, seed, needs)
    return Run(arm.name, arm.config.stem, seed, config, digest, data, teacher, backbone, serves)


class _Backbones:
    """The pre-training of each backbone that the detectors of a study have."""

    def __init__(self, study: Study) -> None:
        self._study, self._known = study, dict[str, Run]()
        self._config: Config | None = None
        if study.pretrain is not None:
            self._config = _read(study.pretrain)
            if "backbone" not in self._config.model or "neck" in self._config.model:
                raise StudyError(
                    f"pretrain.config: the model of '{study.pretrain.config}' must hold a backbone, and nothing that "
                    "fits one backbone alone; see studies/configs/backbone.py"
                )

    def of(self, config: Config) -> Run | None:
        """The run that trains the backbone of a detector's, or of a pair's student's, config."""
        if self._study.pretrain is None or self._config is None:
            return None
        student = config.model.architecture if is_pair(config.model) else config.model
        if "backbone" not in student:
            raise StudyError(f"pretrain: the detector {student.type} has no key 'backbone'")
        key = digest_of(student.backbone)
        if key not in self._known:
            own = copy.deepcopy(self._config)
            own.model.backbone = copy.deepcopy(student.backbone)
            seed = self._study.pretrain.seed
            self._known[key] = _run(self._study, self._study.pretrain, seed, own, serves=True)
        return self._known[key]


def digest_of(*parts: Any) -> str:
    """SHA-256 over the JSON of its arguments."""
    text = json.dumps(parts, sort_keys=True, default=lambda v: getattr(v, "__qualname__", None) or repr(v))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(arm: Arm) -> Config:
    try:
        config = read_config(str(arm.config), arm.options)
        if is_pair(config.get("model")):
            init_default_scope(config.get("default_scope", "mmdet"))
            MODELS.build(copy.deepcopy(config.model.distiller))
    except (InputError, ValueError, TypeError, KeyError) as error:  # how losses and registries refuse
        raise StudyError(f"arm '{arm.name}': {error}") from error
    if config.get("model") is None:
        raise StudyError(f"arm '{arm.name}': the config '{arm.config}' has no `model`")
    return config


def _settings(config: Config, without_teacher: bool = False) -> dict:
    """A config as plain data, without the teacher that the study's replaces."""
    settings = copy.deepcopy(config.to_dict())
    for name in _TEMPLATES:
        settings.pop(name, None)
    if without_teacher:
        for key in ("teacher", "teacher_ckpt"):
            settings["model"].pop(key, None)
    return settings
