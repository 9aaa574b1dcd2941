"""Feature distillation in addition to the logits: MMRazor's feature losses on the feature maps of the same step.

The student's maps are tapped where its own losses take them, the teacher's are those its head classifies: neither
network runs once more.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import NonLocal2d
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from torch import Tensor, nn

from rekd_det.models.losses.base import LogitLoss
from rekd_det.utils.config_types import type_class
from rekd_det.utils.errors import InputError
from rekd_det.utils.options import check_options

#: by which names MMRazor's connectors call the channels they take
_IN_CHANNELS = ("in_channels", "in_channel", "student_channels")


class FeatureLoss(BaseModule):
    """One feature loss, summed over feature levels, with one connector per level if it needs one.

    Maps, connectors and loss are computed in fp32 even under autocast: standard deviations and sums over a whole
    map overflow fp16, and connectors keep fp32 weights.

    Args:
        name: key of the loss in ``feature_losses``, and its name in the log.
        config: of the loss in MMRazor's registry (``dict(type='PKDLoss', loss_weight=6.0)``), called with the student's
            and the teacher's map, or what the connectors make of them. Beside the loss's own options:

            * ``levels``: list of indices into the feature maps; all levels by default;
            * ``student_connector``, ``teacher_connector``: config of a connector on that side, built once per level, or
              a list of configs, one per level; ``levels`` is needed then. Both are trained with the student.

    Raises:
        TypeError: for a loss or connector that is unknown or takes other arguments.
        ValueError: for invalid levels.
    """

    def __init__(self, name: str, config: Mapping) -> None:
        super().__init__()
        self.key = f"model.distiller.feature_losses.{name}"
        self.name = name
        if not name.startswith("loss") or "." in name:
            raise ValueError(f"{self.key}: the name of a feature loss starts with 'loss', e.g. 'loss_pkd'")
        if not isinstance(config, Mapping) or config.get("type") is None:
            raise TypeError(f"{self.key} must be a config dict with a type, e.g. dict(type='mmrazor.PKDLoss')")
        options = dict(config)
        self.levels = self._levels(options.pop("levels", None))
        sides = [options.pop(f"{side}_connector", None) for side in ("student", "teacher")]
        self.loss = self._build(options, "")
        self._check_loss()
        self._configs = [self._per_level(side, c) for side, c in zip(("student", "teacher"), sides, strict=True)]
        self.student_connectors, self.teacher_connectors = (
            ModuleList(self._build(c, f".{side}_connector") for c in configs)
            for side, configs in zip(("student", "teacher"), self._configs, strict=True)
        )

    def _levels(self, levels: Any) -> list[int] | None:
        if levels is None:
            return None
        ok = isinstance(levels, Sequence) and levels and all(type(i) is int and i >= 0 for i in levels)
        if not ok or len(set(levels)) < len(levels):
            raise ValueError(f"{self.key}.levels must be a list of different level indices >= 0, got {levels!r}")
        return list(levels)

    def _per_level(self, side: str, config: Any) -> list[Mapping]:
        if config is None:
            return []
        key = f"{self.key}.{side}_connector"
        configs = [config] if isinstance(config, Mapping) else config
        ok = isinstance(configs, (list, tuple))
        if not ok or not all(isinstance(c, Mapping) and c.get("type") is not None for c in configs):
            raise TypeError(
                f"{key} must be a config dict with a type, e.g. dict(type='mmrazor.ConvModuleConnector', "
                f"in_channel=256, out_channel=256), or a list of one per level, got {config!r}"
            )
        if self.levels is None:
            raise ValueError(f"{key}: each level has a connector of its own, so set {self.key}.levels as well")
        if isinstance(config, Mapping):
            return [config] * len(self.levels)
        if len(config) != len(self.levels):
            raise ValueError(f"{key} lists {len(config)} connectors for {len(self.levels)} levels")
        return list(config)

    def _build(self, config: Mapping, part: str) -> nn.Module:
        with DefaultScope.overwrite_default_scope("mmrazor"):
            kind = type_class(config["type"], MODELS)
            if kind is None:
                raise TypeError(
                    f"{self.key}{part}.type={config['type']!r} is not in MMRazor's registry; feature losses are "
                    "PKDLoss, ChannelWiseDivergence, FBKDLoss, MGDLoss and others, connectors are "
                    "ConvModuleConnector, FBKDStudentConnector, FBKDTeacherConnector, MGDConnector and others"
                )
            if inspect.isclass(kind) and not inspect.getfullargspec(kind).varkw:
                check_options(kind, config, f"{self.key}{part}")
            try:
                built = MODELS.build(dict(config))
            except TypeError as error:
                raise TypeError(f"{self.key}{part}: {error}") from error
        for block in built.modules():
            # It has initialised itself; a second time, by mmengine, it fails on the pooling that it has added since.
            if isinstance(block, NonLocal2d) and block.sub_sample:
                block.init_weights = lambda: None  # type: ignore[method-assign]
        return built

    def _check_loss(self) -> None:
        kind = type(self.loss).__name__
        if isinstance(self.loss, LogitLoss):
            raise TypeError(f"{self.key}.type={kind} compares classification logits; set it as model.distiller.loss")
        try:
            inspect.signature(self.loss.forward).bind("student", "teacher")
        except TypeError:
            raise TypeError(
                f"{self.key}.type={kind} does not compare a map of the student with one of the teacher: its forward "
                f"takes {inspect.signature(self.loss.forward)}"
            ) from None

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar.

        Args:
            student: the student's feature maps, one ``(B, c, h, w)`` per level.
            teacher: the teacher's, without gradient.

        Raises:
            InputError: if the levels are not there, or the maps do not fit each other; it names the config key.
        """
        total = student[0].new_zeros((), dtype=torch.float32)
        with torch.autocast(student[0].device.type, enabled=False):
            for i, level in enumerate(self._check_levels(len(student), len(teacher))):
                if len(student[level]) != len(teacher[level]):
                    raise InputError(
                        f"{self.key}: the student has level {level} of {len(student[level])} images in training, the "
                        f"teacher of {len(teacher[level])} (TridentNet makes three of each): no map has a counterpart"
                    )
                try:
                    s = self._connect(0, self.student_connectors, i, level, student[level])
                    t = self._connect(1, self.teacher_connectors, i, level, teacher[level])
                    self._check_maps(level, s, t, student, teacher)
                    total = total + self._checked(self.loss(s, t), student[level].requires_grad)
                except (RuntimeError, AssertionError, IndexError) as error:
                    if student[level].dim() != 4:  # a classifier's, behind its pooling
                        raise InputError(
                            f"{self.key}: level {level} is one vector for each image, {tuple(student[level].shape)}, "
                            f"and {type(self.loss).__name__} or its connector takes maps; mmrazor.L2Loss takes vectors"
                        ) from error
                    # A loss may resize one of the maps itself (PKD), or get tuples of its connectors (FBKD).
                    same = student[level].shape[2:] == teacher[level].shape[2:]
                    if same or str(error).startswith("CUDA"):
                        raise
                    raise self._other_sizes(level, student, teacher) from error
        return total

    def _checked(self, value: Any, trained: bool) -> Tensor:
        kind = type(self.loss).__name__
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{self.key}: {kind} gives {found}, and a loss is a tensor of one number")
        if trained and not value.requires_grad:
            raise InputError(f"{self.key}: {kind} gives no gradient to the student; does it detach the student's map?")
        return value.reshape(())

    def idle(self) -> Tensor:
        """A zero attached to every weight; for a loss that has weights (its connectors')."""
        return torch.stack([p.sum() * 0 for p in self.parameters()]).sum()

    def _check_levels(self, student: int, teacher: int) -> list[int]:
        if self.levels is None:
            if student != teacher:
                raise InputError(
                    f"{self.key}: the student has {student} feature levels, the teacher {teacher}; name those that "
                    f"belong together, e.g. levels={list(range(min(student, teacher)))}"
                )
            return list(range(student))
        if max(self.levels) >= min(student, teacher):
            raise InputError(
                f"{self.key}.levels={self.levels} is out of range: the student has {student} feature levels, the "
                f"teacher {teacher}, so indices go from 0 to {min(student, teacher) - 1}"
            )
        return self.levels

    def _connect(self, side: int, connectors: ModuleList, index: int, level: int, feature: Tensor) -> Any:
        feature = feature.float().contiguous()  # some losses take views of whole maps
        if not len(connectors):
            return feature
        config = self._configs[side][index]
        wants = next((config[k] for k in _IN_CHANNELS if k in config), feature.shape[1])
        if wants != feature.shape[1]:
            name = ("student", "teacher")[side]
            raise InputError(
                f"{self.key}.{name}_connector takes {wants} channels, but level {level} of the {name} has "
                f"{feature.shape[1]}"
            )
        return connectors[index](feature)

    def _check_maps(self, level: int, student: Any, teacher: Any, *maps: Sequence[Tensor]) -> None:
        if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
            return  # FBKD's connectors give tuples to their loss
        same_channels = student.shape[1] == teacher.shape[1]
        if not same_channels and (len(self.student_connectors) or len(self.teacher_connectors)):
            raise InputError(
                f"{self.key}: behind the connectors level {level} has {student.shape[1]} channels on the student's "
                f"side and {teacher.shape[1]} on the teacher's; change what the connectors give (out_channel)"
            )
        if not same_channels:
            raise InputError(
                f"{self.key}: level {level} has {student.shape[1]} channels in the student and {teacher.shape[1]} in "
                "the teacher. Add student_connector=dict(type='mmrazor.ConvModuleConnector', "
                f"in_channel={student.shape[1]}, out_channel={teacher.shape[1]}, act_cfg=None)"
            )
        # PKD resizes one of the maps itself.
        if student.shape != teacher.shape and not hasattr(self.loss, "resize_stu"):
            raise self._other_sizes(level, *maps)

    def _other_sizes(self, level: int, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> InputError:
        pairs = enumerate(zip(student, teacher, strict=False))
        fits = [i for i, (s, t) in pairs if s.shape[2:] == t.shape[2:]]
        mend = f"set {self.key}.levels={fits}, whose sizes agree; or " if fits else ""
        return InputError(
            f"{self.key}: {type(self.loss).__name__} can't compare level {level} of the feature maps: "
            f"model.architecture.extract_feat gives {tuple(student[level].shape)}, model.teacher.extract_feat "
            f"{tuple(teacher[level].shape)}. Give both networks the same strides; or {mend}take "
            "mmrazor.PKDLoss, which resizes the student's map"
        )
