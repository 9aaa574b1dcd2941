"""The frozen teacher: how it is built and loaded, and how it gets its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModel
from torch import Tensor, nn

from rekd_det.utils.checkpoint import load_checkpoint_file, load_weights
from rekd_det.utils.checkpoint_content import classes_of, strip_student_prefix, weights_of
from rekd_det.utils.errors import CheckpointError, InputError
from rekd_det.utils.pair_config import resolve_model_config
from rekd_det.utils.pretrained import drop_pretrained


def build_teacher(
    spec: Mapping | str | BaseModel, checkpoint: str | None = None
) -> tuple[BaseModel, tuple[str, ...] | None]:
    """Build the teacher detector, load its weights and freeze it.

    Args:
        spec: a model config, ``dict(cfg_path=..., cfg_options=...)`` (see
            :func:`rekd_det.utils.pair_config.resolve_model_config`), or a detector that is already built.
        checkpoint: file or URL. May be None only for a built detector: an untrained teacher teaches noise.

    Returns:
        The frozen teacher, and the names of its categories in order if the checkpoint has them.

    Raises:
        InputError: if the teacher has no checkpoint or its config is not a model.
        CheckpointError: if the checkpoint can't be read, carries code, or its keys do not all match.
    """
    if isinstance(spec, BaseModel):
        teacher = spec
    else:
        config = resolve_model_config(spec, "model.teacher")
        if checkpoint is None:
            raise InputError(
                "model.teacher_ckpt is not set, and an untrained teacher teaches noise. Set it to the file or URL "
                "of the teacher's checkpoint"
            )
        # The checkpoint replaces every weight: no ImageNet weights need to be fetched first.
        drop_pretrained(config)
        teacher = MODELS.build(config)
    classes = None
    if checkpoint is not None:
        try:
            loaded = load_checkpoint_file(checkpoint)
        except CheckpointError as error:
            raise CheckpointError(f"model.teacher_ckpt: {error}") from error
        weights = strip_student_prefix(weights_of(loaded))
        load_weights(teacher, weights, f"model.teacher_ckpt={checkpoint!r}")
        classes = classes_of(loaded)
    freeze(teacher)
    return teacher, classes


def freeze(teacher: nn.Module) -> None:
    """Eval mode for every module, no gradient for any parameter."""
    teacher.eval()
    teacher.requires_grad_(False)


class TeacherInput:
    """Turns the student's preprocessed images into what the teacher's own preprocessor would have made.

    Both networks see one batch (same augmentation, same sizes), but each was trained with its own channel order, mean,
    std and padding value. Where these agree the batch passes through untouched.

    Args:
        student: the student's data preprocessor.
        teacher: the teacher's data preprocessor.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        (flip_s, mean_s, std_s, pad_s), (flip_t, mean_t, std_t, pad_t) = map(_normalisation, (student, teacher))
        self.flip = flip_s != flip_t
        if self.flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        scale, shift = std_s / std_t, (mean_s - mean_t) / std_t
        self.affine = not (torch.equal(mean_s, mean_t) and torch.equal(std_s, std_t))
        self.pad_value = float(pad_t)
        # Images of MMPretrain have one size: nothing is padded, unless to a multiple of a size.
        self.pads = hasattr(student, "_channel_conversion") or getattr(student, "pad_size_divisor", 1) > 1
        self.identity = not self.flip and not self.affine and (pad_s == pad_t or not self.pads)
        self._scale_shift = torch.stack([scale, shift]).float().view(2, 1, 3, 1, 1)

    def __call__(self, inputs: Tensor, data_samples: Sequence) -> Tensor:
        """Map a batch.

        Args:
            inputs: ``(B, 3, H, W)`` images, normalised and padded for the student.
            data_samples: their data samples; ``img_shape`` (height, width) says where padding starts.

        Returns:
            ``(B, 3, H, W)``; the same tensor where nothing differs.
        """
        if self.identity:
            return inputs
        out = inputs.flip(1) if self.flip else inputs
        if self.affine:
            if self._scale_shift.device != inputs.device:  # once: the batches stay on one device
                self._scale_shift = self._scale_shift.to(inputs.device)
            scale, shift = self._scale_shift
            out = torch.addcmul(shift, out, scale)
        elif not self.flip:
            out = out.clone()
        if not self.pads:
            return out
        for image, sample in zip(out, data_samples, strict=True):
            height, width = sample.img_shape[:2]
            image[:, height:] = self.pad_value
            image[:, :, width:] = self.pad_value
        return out


def _normalisation(preprocessor: Any) -> tuple[bool, Tensor, Tensor, float]:
    """Whether the channels are flipped, then mean and std in the resulting order, then the padding value."""
    # MMPretrain's classifiers call it `to_rgb`.
    flip = bool(getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "to_rgb", False)))
    mean, std = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    if getattr(preprocessor, "_enable_normalize", False):
        mean, std = (
            x.detach().double().cpu().flatten().expand(3).clone() for x in (preprocessor.mean, preprocessor.std)
        )
    return flip, mean, std, getattr(preprocessor, "pad_value", 0)
