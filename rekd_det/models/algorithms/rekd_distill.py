"""ReKDDistill: train a student detector with a frozen teacher."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from rekd_det.models.distillers.rekd_distiller import ReKDDistiller
from rekd_det.models.teachers.lean import LeanOptions, make_lean
from rekd_det.models.teachers.teacher import TeacherInput, build_teacher
from rekd_det.utils.checkpoint_content import STUDENT_PREFIX
from rekd_det.utils.errors import CheckpointError
from rekd_det.utils.pair_config import student_of, with_preprocessor

_TEACHER_PREFIX = "teacher."


@MODELS.register_module()
class ReKDDistill(SingleTeacherDistill):
    """MMRazor's single-teacher distillation with the student first and a teacher that only classifies the student's
    rows.

    It differs from its parent in that

    * the teacher classifies the rows that the student's head sampled;
    * the teacher is not a submodule: it is in no checkpoint, optimizer, DDP bucket or EMA copy, and ``train()``
      leaves it in eval mode. It moves between devices with the algorithm;
    * the student's losses keep their names (except MMPretrain's 'loss', which becomes 'loss_cls': in a log 'loss' is
      the total), the distillation's get the prefix 'distill.';
    * a stopped distillation (``StopDistillHook``) neither runs the teacher nor keeps it in the GPU's memory.

    Args:
        distiller: config of :class:`rekd_det.models.distillers.ReKDDistiller`.
        teacher: the teacher's model config, ``dict(cfg_path=...)``, the ``cfg_path`` alone, or a built detector.
        teacher_ckpt: file or URL of the teacher's weights; needed unless ``teacher`` is built.
        calculate_student_loss: whether the student's own losses are part of the total.
        teacher_fuse_bn, teacher_channels_last, teacher_dtype, teacher_compile, teacher_roi_gather: how the teacher is
            run, see :class:`rekd_det.models.teachers.lean.LeanOptions`. Off by default.
        **kwargs: ``architecture`` (the student, given as the teacher is), ``data_preprocessor``, ``init_cfg`` of
            MMRazor's ``BaseAlgorithm``.

    Raises:
        ValueError: if teacher and student are incompatible (classes, stages), or an option is not supported.
        TypeError: if a head has no adapter.
    """

    def __init__(
        self,
        distiller: dict,
        teacher: BaseModel | Mapping | str,
        teacher_ckpt: str | None = None,
        calculate_student_loss: bool = True,
        teacher_fuse_bn: bool = False,
        teacher_channels_last: bool = False,
        teacher_dtype: str | None = None,
        teacher_compile: bool | Mapping = False,
        teacher_roi_gather: bool = False,
        **kwargs,
    ) -> None:
        for key in ("teacher_trainable", "student_trainable", "teacher_norm_eval"):
            if key in kwargs and kwargs.pop(key) is not (key != "teacher_trainable"):
                raise ValueError(
                    f"model.{key}: ReKDDistill trains the student and keeps the teacher frozen in eval mode; "
                    "leave the key out"
                )
        if isinstance(kwargs.get("architecture"), (str, Mapping)):
            # The student's class knows what else belongs to its preprocessor (Mixup).
            preprocessor = kwargs.pop("data_preprocessor", None)
            model = dict(architecture=kwargs["architecture"], data_preprocessor=preprocessor)
            kwargs["architecture"] = student_of(model)
            teacher = with_preprocessor(teacher, preprocessor)
        # Built once more below: this finds a mistake in its options before the teacher is downloaded.
        found = type(MODELS.build(copy.deepcopy(distiller)))
        if not issubclass(found, ReKDDistiller):
            raise TypeError(
                f"model.distiller.type={found.__name__}: ReKDDistill needs mmrazor.ReKDDistiller, which has no "
                "recorders and takes one loss; docs/migration.md shows how to rewrite a config of MMRazor"
            )
        if not isinstance(calculate_student_loss, bool):
            raise TypeError(f"model.calculate_student_loss must be True or False, got {calculate_student_loss!r}")
        options = LeanOptions(
            teacher_fuse_bn, teacher_channels_last, teacher_dtype, teacher_compile, teacher_roi_gather
        )
        built, classes = build_teacher(teacher, teacher_ckpt)
        lean = make_lean(built, options)  # before the distiller sees the teacher's weights
        # MMRazor turns in-place activations off for recorders that keep their inputs; the taps here keep logits only.
        kwargs.setdefault("module_inplace", True)
        super().__init__(
            distiller=distiller,
            teacher=built,
            calculate_student_loss=calculate_student_loss,
            teacher_module_inplace=True,
            **kwargs,
        )
        self.distiller.lean = lean
        # An ordinary attribute, not a submodule: see the class docstring.
        self.__dict__["teacher"] = self._modules.pop("teacher")
        #: names of the teacher's categories in order, or None if its checkpoint does not have them
        self.teacher_classes = classes
        self._teacher_input = TeacherInput(self.data_preprocessor, built.data_preprocessor)

    @property
    def detector(self) -> BaseModel:
        """The student: mmdet's YOLOXModeSwitchHook looks under this name for a detector inside a model."""
        return self.student

    @property
    def head(self) -> nn.Module:
        """The head of an image classifier: MMPretrain's SwitchRecipeHook looks under this name for the loss to switch.

        Raises:
            AttributeError: the student has no ``head``, as most detectors.
        """
        return self.student.head

    def loss(self, batch_inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """The student's losses and, under 'distill.', those of the distillation.

        Args:
            batch_inputs: ``(B, 3, H, W)`` images, preprocessed for the student.
            data_samples: their ``DetDataSample``s with ground truth.
        """
        if self.distillation_stopped:
            losses = self._student_losses(batch_inputs, data_samples)
            losses.update(add_prefix(self.distiller.idle_losses(), "distill"))
            return losses
        assert data_samples is not None
        with self.distiller.step():
            # Before the student's forward, whose activations stay until the backward: what the teacher needs on the way
            # to its feature maps is then free again.
            with torch.no_grad():
                feats = self.distiller.extract_teacher_feat(
                    self.teacher, self._teacher_input(batch_inputs, data_samples)
                )
            losses = self._student_losses(batch_inputs, data_samples)
            distill = self.distiller.compute_distill_losses(feats, data_samples)
        if not self.calculate_student_loss:
            losses = {}
        losses.update(add_prefix(distill, "distill"))
        return losses

    def _student_losses(self, batch_inputs: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        losses = self.student(batch_inputs, data_samples, mode="loss")
        if "loss" in losses:  # MMPretrain's name; in a log it means the total
            losses["loss_cls"] = losses.pop("loss")
        return losses

    def train(self, mode: bool = True) -> ReKDDistill:  # type: ignore[override]
        """Set the student's mode; the teacher is not a submodule and stays in eval mode."""
        return nn.Module.train(self, mode)

    @property
    def distillation_stopped(self) -> bool:
        """Whether the student trains alone from now on. The teacher is then kept in the CPU's memory."""
        return self.__dict__.get("_stopped", False)

    @distillation_stopped.setter
    def distillation_stopped(self, stopped: bool) -> None:
        self.__dict__["_stopped"] = stopped
        if "teacher" in self.__dict__:  # not while MMRazor's constructor runs
            self.teacher.to("cpu" if stopped else next(self.student.parameters()).device)

    def _apply(self, fn, recurse: bool = True):
        # A copy borrows the teacher: `EMAHook(device="cpu")` moves the copy, and must not move the teacher with it.
        if not (self.distillation_stopped or self.__dict__.get("_is_copy", False)):
            self.teacher._apply(fn, recurse)
        # mmdet's LD and LAD have a teacher of their own. It is no submodule of them, and only their `to()` moves it.
        if isinstance(own := getattr(self.student, "teacher_model", None), nn.Module):
            own._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict) -> ReKDDistill:
        # A copy (EMA) of the student needs no second teacher. The distiller's adapter refers to parts of it.
        for kept in (self.teacher.modules(), self.teacher.parameters(), self.teacher.buffers()):
            memo.update((id(x), x) for x in kept)
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()}, _is_copy=True)
        return twin

    def _load_from_state_dict(
        self,
        state_dict,
        prefix,
        local_metadata,
        strict,
        missing_keys,
        unexpected_keys,
        error_msgs,
    ) -> None:
        """Accept a plain detector's weights for the student, and drop a teacher that MMRazor saved too."""
        student = prefix + STUDENT_PREFIX
        if not any(k.startswith(student) for k in state_dict):
            _rename(state_dict, prefix, student)
        for key in [k for k in state_dict if k.startswith(prefix + _TEACHER_PREFIX)]:
            del state_dict[key]
        own = {key: value.shape for key, value in self.state_dict().items()}
        named = [key for key in state_dict if key[len(prefix) :] in own]
        other = [key for key in named if own[key[len(prefix) :]] != getattr(state_dict[key], "shape", None)]
        matched = set(named).difference(other)
        # A batch norm's counter fits whatever its weights are.
        if all(key.endswith(".num_batches_tracked") for key in matched):
            shown = ", ".join(list(state_dict)[:3]) or "no keys at all"
            raise CheckpointError(
                f"none of the checkpoint's weights belongs to the student ({shown} ...): it is of another "
                "architecture, or it is not a detector's checkpoint"
            )
        print_log(
            f"{len(matched)} of {len(state_dict)} weights in the checkpoint match the student's {len(own)}"
            + (f"; {len(other)} have another shape, among them {other[0]}" if other else ""),
            logger="current",
            level=logging.WARNING if other else logging.INFO,
        )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _rename(state_dict, prefix: str, student: str) -> None:
    """Move a plain detector's keys and module versions under the student's prefix, in place."""
    for key in list(state_dict):
        state_dict[student + key[len(prefix) :]] = state_dict.pop(key)
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        for key in list(metadata):
            metadata[(student + key[len(prefix) :]).rstrip(".")] = metadata[key]
