"""The trainings that the runs of a study build on: teachers and backbones, each planned once."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config, ConfigDict

from rekd_det.utils.config_types import default_scope
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import is_pair, trained_model
from studies.runner.arm_config import read_arm_config
from studies.runner.digest import digest_of
from studies.runner.run import Run, new_run
from studies.runner.spec import Arm, Study


class Teachers:
    """The training of each teacher of a study, planned once."""

    def __init__(self, study: Study, backbones: Backbones) -> None:
        self._study, self._backbones, self._known = study, backbones, dict[str | None, Run]()
        for name in (*([None] if study.teacher else []), *study.teachers):
            self._plan(name)

    def of(self, arm: Arm, config: Config) -> Run | None:
        """The run that trains the teacher of an arm; None of a detector that learns alone, or with its own teacher."""
        return self._known.get(arm.taught_by) if is_pair(config.model) else None

    def _plan(self, name: str | None, pupils: tuple[str | None, ...] = ()) -> Run:
        if name in pupils:
            raise InputError(f"teachers.{name} is taught by itself")
        if name not in self._known:
            teacher = self._study.teacher if name is None else self._study.teachers[name]
            assert teacher is not None
            config = read_arm_config(teacher)
            if is_pair(config.model) != (teacher.taught_by is not None):
                raise InputError(
                    f"{teacher.name}: '{teacher.config}' is a pair, and a teacher learns alone unless it names its own "
                    "`teacher`"
                    if is_pair(config.model)
                    else f"{teacher.name}: '{teacher.config}' is not a pair and can't use a `teacher`"
                )
            of = self._plan(teacher.taught_by, (*pupils, name)) if teacher.taught_by is not None else None
            backbone = self._backbones.of(config)
            self._known[name] = new_run(self._study, teacher, teacher.seeds[0], config, backbone, of)
        return self._known[name]


class Backbones:
    """The pre-training of each backbone that the detectors of a study have."""

    def __init__(self, study: Study) -> None:
        self._study, self._known = study, dict[str, Run]()
        self._config: Config | None = None
        if study.pretrain is not None:
            self._config = read_arm_config(study.pretrain)
            model = self._config.model
            if "backbone" not in model or {"rpn_head", "roi_head", "bbox_head"} & model.keys():
                raise InputError(
                    f"pretrain.config: the model of '{study.pretrain.config}' must hold a backbone, and nothing that "
                    "fits one backbone alone; see studies/configs/tiny_imagenet_backbone.py"
                )

    def of(self, config: Config) -> Run | None:
        """The run that trains the backbone of a detector's, or of a pair's student's, config."""
        if self._study.pretrain is None or self._config is None:
            return None
        _, student = trained_model(config.model)
        if "backbone" not in student:
            raise InputError(f"pretrain: the detector {student.type} has no key 'backbone'")
        own = copy.deepcopy(self._config)
        own.model.backbone = _in_scope_of(own, student.backbone, default_scope(config))
        # Weights do not depend on which levels are read, so detectors that read other levels share a pre-training.
        levels = self._config.model.backbone.get("out_indices")
        if levels is not None and "out_indices" in own.model.backbone:
            own.model.backbone.out_indices = levels
        key = digest_of(own.model.backbone)
        if key not in self._known:
            if "in_channels" in own.model.get("head", {}):
                own.model.head.in_channels = _out_channels(own.model.backbone)
            pretrain = self._study.pretrain
            self._known[key] = new_run(self._study, pretrain, pretrain.seeds[0], own)
        return self._known[key]


def _in_scope_of(config: Config, backbone: Mapping, scope: str) -> ConfigDict:
    """A copy of a backbone's config of another default scope that means the same in ``config``."""
    own = ConfigDict(copy.deepcopy(backbone))
    if isinstance(own.type, str) and "." not in own.type and default_scope(config) != scope:
        own.type = f"{scope}.{own.type}"
    return own


def _out_channels(backbone: Mapping) -> int:
    """Channels of the last feature map that a backbone gives."""
    built = DETECTORS.build(copy.deepcopy(backbone))
    built.eval()  # which returns None in mmdet's ResNet
    with torch.no_grad():
        return built(torch.zeros(1, 3, 64, 64))[-1].shape[1]
