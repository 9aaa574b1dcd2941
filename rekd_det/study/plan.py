"""Which trainings a study consists of, each with its config and a digest of all that decides its result."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrazor.registry import MODELS

from ..datasets.coco_writer import GENERATOR_VERSION
from ..errors import InputError
from ..pairs import is_pair
from ..preflight import read_config
from .spec import Arm, Study, StudyError

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
        teacher: digest of the run that trains its teacher, or None.
    """

    arm: str
    kind: str
    seed: int
    config: Config
    digest: str
    teacher: str | None = None

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
        teacher: None where the pairs bring their own.
        runs: by seed and then by arm, so that a stopped study has whole seeds.
    """

    teacher: Run | None
    runs: tuple[Run, ...]

    def all(self) -> list[Run]:
        """The teacher, if any, and all others."""
        return [*([self.teacher] if self.teacher else []), *self.runs]


def make_plan(study: Study) -> Plan:
    """Read all configs and build every distillation loss, so that mistakes show before anything is trained.

    Raises:
        InputError: an arm's config or options can't be used, or two arms are the same.
    """
    data = study.data and {**study.data, "version": GENERATOR_VERSION}
    teacher = None
    if study.teacher is not None:
        config = _read(study.teacher)
        if is_pair(config.model):
            raise StudyError(f"teacher.config: '{study.teacher.config}' is a pair; a teacher learns alone")
        digest = digest_of(_settings(config), data, study.teacher.seed)
        teacher = Run(study.teacher.name, study.teacher.config.stem, study.teacher.seed, config, digest)
    runs = []
    by_digest: dict[str, str] = {}
    configs = {arm.name: _read(arm) for arm in study.arms}
    for seed in study.seeds:
        for arm in study.arms:
            config = configs[arm.name]
            of = teacher.digest if teacher and is_pair(config.model) else None
            digest = digest_of(_settings(config, without_teacher=of is not None), data, seed, of)
            if by_digest.setdefault(digest, arm.name) != arm.name:
                raise StudyError(f"arms.{arm.name} trains the same as arms.{by_digest[digest]}; leave one out")
            runs.append(Run(arm.name, arm.config.stem, seed, config, digest, of))
    return Plan(teacher, tuple(runs))


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
    if without_teacher:
        for key in ("teacher", "teacher_ckpt"):
            settings["model"].pop(key, None)
    return settings
