"""Which trainings a study consists of, each with its config and a digest of all that decides its result."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmrazor.registry import MODELS

from rekd_det.apis.preflight import merge_options, read_config
from rekd_det.datasets.synthetic.coco_writer import GENERATOR_VERSION
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair
from studies.runner.digest import decisive_settings, digest_of
from studies.runner.spec import PRETRAIN, Arm, Pretraining, Study, StudyError

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
        serves: whether others need its checkpoint.
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
    serves: bool = False
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
        model = self.config.model
        return model.architecture if is_pair(model) else model


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
    teachers = _Teachers(study, backbones)
    runs = []
    by_digest: dict[str, str] = {}
    configs = {arm.name: _read(arm) for arm in study.arms}
    rounds = max(len(arm.seeds) for arm in study.arms)
    for seed, arm in [(arm.seeds[i], arm) for i in range(rounds) for arm in study.arms if i < len(arm.seeds)]:
        config = configs[arm.name]
        run = _run(study, arm, seed, config, backbones.of(config), teachers.of(arm, config))
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
    # Backbones are pre-trained on data of their own.
    data, root = (None, arm.data_root) if isinstance(arm, Pretraining) else (study.data, study.data_root)
    versioned = data and {**data, "version": GENERATOR_VERSION}
    needs = [run.digest for run in (backbone, teacher) if run is not None]
    digest = digest_of(decisive_settings(config, without_teacher=teacher is not None), versioned, seed, needs)
    return Run(arm.name, arm.config.stem, seed, config, digest, data, teacher, backbone, serves, root, arm.validate)


class _Teachers:
    """The training of each teacher of a study, planned once."""

    def __init__(self, study: Study, backbones: _Backbones) -> None:
        self._study, self._backbones, self._known = study, backbones, dict[str | None, Run]()
        for name in (*([None] if study.teacher else []), *study.teachers):
            self._plan(name)

    def of(self, arm: Arm, config: Config) -> Run | None:
        """The run that trains the teacher of an arm; None of a detector that learns alone, or with its own teacher."""
        return self._known.get(arm.taught_by) if is_pair(config.model) else None

    def _plan(self, name: str | None, pupils: tuple[str | None, ...] = ()) -> Run:
        if name in pupils:
            raise StudyError(f"teachers.{name} is taught by itself")
        if name not in self._known:
            teacher = self._study.teacher if name is None else self._study.teachers[name]
            assert teacher is not None
            config = _read(teacher)
            if is_pair(config.model) != (teacher.taught_by is not None):
                raise StudyError(
                    f"{teacher.name}: '{teacher.config}' is a pair, and a teacher learns alone unless it names its own "
                    "`teacher`"
                    if is_pair(config.model)
                    else f"{teacher.name}: '{teacher.config}' is not a pair and can't use a `teacher`"
                )
            of = self._plan(teacher.taught_by, (*pupils, name)) if teacher.taught_by is not None else None
            backbone = self._backbones.of(config)
            self._known[name] = _run(self._study, teacher, teacher.seeds[0], config, backbone, of, serves=True)
        return self._known[name]


class _Backbones:
    """The pre-training of each backbone that the detectors of a study have."""

    def __init__(self, study: Study) -> None:
        self._study, self._known = study, dict[str, Run]()
        self._config: Config | None = None
        if study.pretrain is not None:
            self._config = _read(study.pretrain)
            model = self._config.model
            if "backbone" not in model or {"rpn_head", "roi_head", "bbox_head"} & model.keys():
                raise StudyError(
                    f"pretrain.config: the model of '{study.pretrain.config}' must hold a backbone, and nothing that "
                    "fits one backbone alone; see studies/configs/tiny_imagenet_backbone.py"
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
            own.model.backbone = _in_scope_of(own, student.backbone, config.get("default_scope", "mmdet"))
            if "in_channels" in own.model.get("head", {}):
                own.model.head.in_channels = _out_channels(own.model.backbone)
            pretrain = self._study.pretrain
            self._known[key] = _run(self._study, pretrain, pretrain.seeds[0], own, serves=True)
        return self._known[key]


def _in_scope_of(config: Config, backbone: Mapping, scope: str) -> ConfigDict:
    """A copy of a backbone's config of another default scope that means the same in ``config``."""
    own = ConfigDict(copy.deepcopy(backbone))
    if "." not in own.type and config.get("default_scope", "mmdet") != scope:
        own.type = f"{scope}.{own.type}"
    return own


def _out_channels(backbone: Mapping) -> int:
    """Channels of the last feature map that a backbone gives."""
    built = DETECTORS.build(copy.deepcopy(backbone))
    built.eval()  # which returns None in mmdet's ResNet
    with torch.no_grad():
        return built(torch.zeros(1, 3, 64, 64))[-1].shape[1]


@functools.cache
def _file(path: str, changed: int) -> Config:
    """A config file as it is; arms share a few of them, and reading one takes a second."""
    return read_config(path)


def _read(arm: Arm) -> Config:
    try:
        config = copy.deepcopy(_file(str(arm.config), arm.config.stat().st_mtime_ns))
        merge_options(config, arm.options, str(arm.config))
        if is_pair(config.get("model")):
            init_default_scope(config.get("default_scope", "mmdet"))
            MODELS.build(copy.deepcopy(config.model.distiller))
    except (InputError, ValueError, TypeError, KeyError) as error:  # how losses and registries refuse
        raise StudyError(f"arm '{arm.name}': {error}") from error
    if config.get("model") is None:
        raise StudyError(f"arm '{arm.name}': the config '{arm.config}' has no `model`")
    return config
