"""Read checkpoints safely, and take the student out of a distilled one."""

import os
import os.path as osp
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from rekd_det.utils.errors import InputError

STUDENT_PREFIX = "architecture."
_WRAPPER_PREFIX = "module."  # what DataParallel wrappers put before every key


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or does not fit the model."""


def load_checkpoint_file(path_or_url: str, map_location: str = "cpu") -> dict:
    """Load a checkpoint with ``weights_only`` on, through mmengine's loader.

    Args:
        path_or_url: A file, a URL, or any other scheme mmengine knows (``open-mmlab://...``).
        map_location: Where its tensors go, as in :func:`torch.load`.

    Returns:
        The checkpoint as it was saved, with or without a ``state_dict`` level.

    Raises:
        CheckpointError: If it is missing, empty, damaged, no checkpoint, or carries code.
    """
    if is_local(path_or_url):
        _check_local_file(path_or_url)
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path_or_url, map_location)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise _explain(path_or_url, error) from error
    _check_holds_weights(path_or_url, checkpoint)
    return checkpoint


def check_checkpoint_file(path: str) -> dict:
    """Check that a local file is a checkpoint, without reading its tensors where that is possible.

    Args:
        path: A local file; anything else is left to the loader.

    Returns:
        The checkpoint, its tensors mapped from the file where that is possible. Empty for what is no local file.

    Raises:
        CheckpointError: As :func:`load_checkpoint_file`.
    """
    if not is_local(path):
        return {}
    path = _check_local_file(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle raises nearly anything
        raise _explain(path, error) from error
    _check_holds_weights(path, checkpoint)
    return checkpoint


def strip_student_prefix(state_dict: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """The student's weights of a distillation checkpoint, under the names of a plain detector.

    Only the *leading* ``architecture.`` goes, and only if any key has it: then all other keys
    (the distiller's, a teacher's) are left out. A plain detector's weights keep their names. A
    ``module.`` that a parallel wrapper left in front goes too.

    Args:
        state_dict: Weights of a detector, or of a distillation algorithm around it.

    Returns:
        A new dict. The tensors are shared, and the version metadata is kept.
    """
    metadata = getattr(state_dict, "_metadata", {})
    for prefix in (_WRAPPER_PREFIX, STUDENT_PREFIX):
        if any(key.startswith(prefix) for key in state_dict):
            state_dict = _without_prefix(state_dict, prefix)
            # A module's key there lacks the final dot: the student's own is 'architecture'.
            dotted = _without_prefix({f"{key}.": value for key, value in metadata.items()}, prefix)
            metadata = {key.removesuffix("."): value for key, value in dotted.items()}
    stripped = OrderedDict(state_dict)
    # torch keeps the versions of the modules there, and passes them to their loaders.
    stripped._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
    return stripped


def load_weights(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must fit a module exactly.

    Args:
        module: Receives the weights.
        state_dict: One tensor for each parameter and buffer. ``num_batches_tracked`` may be
            missing: old checkpoints lack it, and nothing here depends on it.
        source: The checkpoint's name, for the message.

    Raises:
        CheckpointError: If keys are missing or unknown, or a shape differs; it lists them.
    """
    try:
        missing, unexpected = module.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {error}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}, which has other weights.\n"
            f"  missing in the checkpoint ({len(missing)}): {', '.join(missing) or '-'}\n"
            f"  unknown to the model ({len(unexpected)}): {', '.join(unexpected) or '-'}\n"
            "Give the config that the checkpoint was trained with."
        )


def is_local(path: str) -> bool:
    """Whether a checkpoint's name is a path on this machine rather than a URL or another scheme."""
    return "://" not in path


def _check_local_file(path: str) -> str:
    path = osp.expanduser(path)
    if osp.isdir(path):
        raise CheckpointError(f"checkpoint '{path}' is a folder: name a .pth file in it")
    if not osp.isfile(path):
        raise CheckpointError(f"checkpoint '{path}' does not exist (relative paths start at {os.getcwd()})")
    if osp.getsize(path) == 0:
        raise CheckpointError(f"checkpoint '{path}' is an empty file: copy or download it again")
    return path


def _explain(path: str, error: Exception) -> CheckpointError:
    text = str(error)
    carried = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", text)
    if carried and "Weights only load failed" in text:
        return CheckpointError(
            f"checkpoint '{path}' carries code ({carried[1]}) and was refused: loading it could "
            "run anything. If you trust who made it, ask for a file with nothing but weights: "
            "torch.save({'state_dict': model.state_dict()}, ...)"
        )
    detail = f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
    if not is_local(path):
        return CheckpointError(
            f"checkpoint '{path}' could not be fetched or read ({detail}). Check the address and "
            "the network, or download it elsewhere and give the file's path"
        )
    if "Weights only load failed" in text:  # torch's advice to switch the safety off is not ours
        detail = "its content is not in PyTorch's format"
    return CheckpointError(
        f"checkpoint '{path}' is damaged or no PyTorch checkpoint ({osp.getsize(path)} bytes; "
        f"{detail}). Copy or download it again"
    )


def _check_holds_weights(path: str, checkpoint: object) -> None:
    weights = weights_of(checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"checkpoint '{path}' holds no weights: expected dict(state_dict=...) or a state dict")


def weights_of(checkpoint: Mapping) -> Mapping:
    """The weights of a checkpoint, with or without a ``state_dict`` level."""
    return checkpoint.get("state_dict", checkpoint)


def _without_prefix(mapping: Mapping, prefix: str) -> dict:
    return {key[len(prefix) :]: value for key, value in mapping.items() if key.startswith(prefix)}
