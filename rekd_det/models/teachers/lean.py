"""Options that make the frozen teacher cheaper to run. All of them are off by default.

The options change the last bits of the teacher's logits (`docs/performance.md` says by how much); with all of them off
a teacher that is a copy of the student gives the student's own logits, bit by bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from mmcv.cnn import fuse_conv_bn
from mmcv.cnn.bricks.wrappers import Conv2d, Linear
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from rekd_det.models.teachers.roi_gather import GatherRoIAlign, can_gather

#: names of the precisions that a teacher can use
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}

#: largest change of a feature map, relative to its largest value, that rewriting the teacher may cause
TOLERANCE = 1e-4

_CONVS = (nn.Conv2d, Conv2d)
_LINEARS = (nn.Linear, Linear)
_PROBE_SIZE = 128  # pixels; a multiple of every zoo backbone's coarsest stride


@dataclass(frozen=True)
class LeanOptions:
    """How the teacher is run. ``ReKDDistill`` has these arguments with the prefix 'teacher_'.

    Args:
        fuse_bn: fold batch norms into the convolutions before them.
        channels_last: keep the convolutions' weights and maps in NHWC order.
        dtype: 'bf16' or 'fp16': the precision of the teacher's convolutions and linear layers, and of nothing else.
            Operators of mmcv stay in fp32.
        compile: compile backbone and neck with ``torch.compile``; a dict gives its arguments.
        roi_gather: on a CPU, an R-CNN's RoI features by :class:`rekd_det.models.teachers.roi_gather.GatherRoIAlign`.

    Raises:
        ValueError: for any other value; the message names the config key.
    """

    fuse_bn: bool = False
    channels_last: bool = False
    dtype: str | None = None
    compile: bool | Mapping = False
    roi_gather: bool = False

    def __post_init__(self) -> None:
        for key in ("fuse_bn", "channels_last", "roi_gather"):
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"model.teacher_{key} must be True or False, got {getattr(self, key)!r}")
        if self.dtype is not None and self.dtype not in tuple(PRECISIONS):
            raise ValueError(
                f"model.teacher_dtype must be one of {', '.join(PRECISIONS)}, or None for the student's precision, "
                f"got {self.dtype!r}"
            )
        if not isinstance(self.compile, (bool, Mapping)):
            raise ValueError(
                f"model.teacher_compile must be True, False or a dict of torch.compile's arguments, got "
                f"{self.compile!r}"
            )


@dataclass(frozen=True)
class LeanRun:
    """How a teacher that :func:`make_lean` has prepared is called. The default changes nothing."""

    options: LeanOptions = field(default_factory=LeanOptions)
    #: whether the head has operators that support only NCHW maps in fp32
    plain_maps: bool = False

    def precision(self, device: torch.device) -> AbstractContextManager:
        """The context in which every part of the teacher runs."""
        if self.options.dtype is None:
            return nullcontext()
        return torch.autocast(device.type, PRECISIONS[self.options.dtype])

    def begin(self) -> None:
        """Tell torch that a step begins: within one, CUDA graphs of the backbone keep what the neck's still need."""
        if self.options.compile:
            torch.compiler.cudagraph_mark_step_begin()

    def images(self, inputs: Tensor) -> Tensor:
        """The batch ``(B, 3, H, W)`` in the teacher's memory order."""
        return inputs.contiguous(memory_format=torch.channels_last) if self.options.channels_last else inputs

    def maps(self, feats: Sequence[Tensor]) -> Sequence[Tensor]:
        """The teacher's feature maps ``(B, c, h, w)`` as its head wants them."""
        return [f.float().contiguous() for f in feats] if self.plain_maps else feats


def make_lean(teacher: nn.Module, options: LeanOptions) -> LeanRun:
    """Rewrite a frozen teacher in place; its weights must be loaded and not be referenced elsewhere yet.

    Args:
        teacher: a detector in eval mode.
        options: what to do.

    Raises:
        ValueError: if this teacher does not support an option.
        RuntimeError: if folding or NHWC order changed the teacher's feature maps by more than :data:`TOLERANCE`.
    """
    parts = {n: m for n, m in teacher.named_children() if n in ("backbone", "neck")}
    head = [m for n, m in teacher.named_children() if n not in (*parts, "data_preprocessor")]
    if options.channels_last:
        _check_no_mmcv_ops(parts)
    if options.roi_gather:
        _gather_rois(head)
    run = LeanRun(
        options,
        plain_maps=(options.channels_last or options.dtype is not None) and any(map(_has_mmcv_ops, head)),
    )
    before = _probe(teacher) if options.fuse_bn or options.channels_last else []
    if options.fuse_bn:
        print_log(f"teacher: {fold_batch_norms(teacher)} batch norms folded into convolutions", logger="current")
    if options.channels_last:
        for part in (*parts.values(), *(m for m in head if not _has_mmcv_ops(m))):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if before:
        _check_unchanged(before, _probe(teacher, run))
    if options.dtype is not None:
        _store_weights(teacher, PRECISIONS[options.dtype])
    if options.compile:
        for part in parts.values():
            part.compile(**(options.compile if isinstance(options.compile, Mapping) else {}))
    return run


def _gather_rois(head: Sequence[nn.Module]) -> None:
    found = [(owner, name, m) for part in head for owner in part.modules() for name, m in owner.named_children()]
    plain = [(owner, name, m) for owner, name, m in found if can_gather(m)]
    if not plain:
        raise ValueError(
            "model.teacher_roi_gather: the teacher has no RoIAlign with pool_mode='avg' and sampling_ratio=0; leave "
            "the option out"
        )
    for owner, name, module in plain:
        setattr(owner, name, GatherRoIAlign(module))


def fold_batch_norms(teacher: nn.Module) -> int:
    """Fold every batch norm whose only input is the output of one convolution into that convolution, in place.

    Who feeds whom is watched while ``extract_feat`` computes a small image: the order in which modules were registered
    does not tell, and a convolution may be shared between levels whose norms differ.

    Args:
        teacher: a detector in eval mode.

    Returns:
        How many were folded.
    """
    pairs = _conv_before_norm(teacher)
    for norm, conv in pairs.items():
        fuse_conv_bn(nn.Sequential(conv, norm))  # rewrites `conv`
        conv.requires_grad_(False)
    for owner in list(teacher.modules()):
        for name, child in list(owner.named_children()):
            if child in pairs:
                setattr(owner, name, nn.Identity())
    return len(pairs)


def _conv_before_norm(teacher: nn.Module) -> dict[nn.Module, nn.Module]:
    """Batch norms that can be folded, with the convolution of each."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # holds the tensors, so that no id is given to another one
    calls: Counter[nn.Module] = Counter()
    fed: Counter[tuple[nn.Module, nn.Module]] = Counter()

    def on_conv(conv: nn.Module, _: tuple, output: Tensor) -> None:
        made[id(output)] = (conv, output)
        calls[conv] += 1

    def on_norm(norm: nn.Module, args: tuple) -> None:
        calls[norm] += 1
        if id(args[0]) in made:
            fed[made[id(args[0])][0], norm] += 1

    with ExitStack() as hooks:
        for m in teacher.modules():
            # Exact types: a subclass may rewrite its weight at each call, as weight standardisation does.
            if type(m) in _CONVS:
                hooks.callback(m.register_forward_hook(on_conv).remove)
            elif isinstance(m, _BatchNorm) and m.affine and m.track_running_stats and not m.training:
                hooks.callback(m.register_forward_pre_hook(on_norm).remove)
        _probe(teacher)
    return {norm: conv for (conv, norm), n in fed.items() if n == calls[conv] == calls[norm]}


def _probe(teacher: Any, run: LeanRun | None = None) -> list[Tensor]:
    """Feature maps of one small random image, always the same."""
    device = next(teacher.parameters()).device
    image = torch.randn(1, 3, _PROBE_SIZE, _PROBE_SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        feats = teacher.extract_feat(image if run is None else run.images(image))
    return [x for x in tree_leaves(feats) if isinstance(x, Tensor)]


def _check_unchanged(before: list[Tensor], after: list[Tensor]) -> None:
    for level, (old, new) in enumerate(zip(before, after, strict=True)):
        change = float((new - old).abs().max() / old.abs().max().clamp(min=torch.finfo(old.dtype).tiny))
        if not change <= TOLERANCE:
            raise RuntimeError(
                f"model.teacher_fuse_bn, model.teacher_channels_last: the teacher's feature level {level} changes by "
                f"{change:.1e} of its largest value, more than {TOLERANCE:.0e}; leave these options out"
            )


def _store_weights(teacher: nn.Module, dtype: torch.dtype) -> None:
    """Convert once what autocast would convert at each call; mmcv's operators stay in fp32, which all support."""
    spared: set[nn.Module] = set()
    for module in teacher.modules():
        if _is_mmcv_op(module) and module not in spared:
            spared.update(module.modules())
            module.forward = _in_fp32(module.forward)
    for module in teacher.modules():
        # Others keep fp32 weights, which autocast converts where the operation allows it.
        if type(module) in (*_CONVS, *_LINEARS) and module not in spared:
            module.to(dtype)


def _in_fp32(forward: Callable) -> Callable:
    def plain(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(plain, (args, kwargs))
        devices = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        with torch.autocast(devices.pop() if devices else "cpu", enabled=False):
            return forward(*args, **kwargs)

    return run


def _is_mmcv_op(module: nn.Module) -> bool:
    return type(module).__module__.startswith("mmcv.ops.")


def _has_mmcv_ops(module: nn.Module) -> bool:
    return any(map(_is_mmcv_op, module.modules()))


def _check_no_mmcv_ops(parts: Mapping[str, nn.Module]) -> None:
    for name, part in parts.items():
        if _has_mmcv_ops(part):
            raise ValueError(
                f"model.teacher_channels_last: the teacher's {name} has operators of mmcv, which read NCHW maps only; "
                "leave the option out"
            )
