"""Read checkpoints safely: nothing in one is executed, and a message says what is wrong with a file."""

import os
import os.path as osp
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from rekd_det.utils.checkpoint_content import meta_of, weights_of
from rekd_det.utils.download import fetch
from rekd_det.utils.errors import CheckpointError
from rekd_det.utils.not_plain import carried_name, is_not_plain
from rekd_det.utils.read_as_data import check_plain, load_plain, reading_as_data


def load_checkpoint_file(path_or_url: str) -> dict:
    """Load a checkpoint through mmengine's loader, of which :mod:`compat` has made one that executes nothing.

    Args:
        path_or_url: A file, a URL, or any other scheme mmengine knows (``open-mmlab://...``).

    Returns:
        The checkpoint as it was saved, with or without a ``state_dict`` level, in the CPU's memory.

    Raises:
        CheckpointError: If it is missing, empty, damaged, not a checkpoint, or carries code.
    """
    checkpoint = CheckpointLoader.load_checkpoint(path_or_url, "cpu")
    _check_holds_weights(path_or_url, checkpoint)
    return checkpoint


def check_checkpoint_file(path_or_url: str) -> dict:
    """Check that a name leads to a checkpoint, without reading its tensors where that is possible.

    Args:
        path_or_url: A file or a URL, which is downloaded. Any other scheme is left to its loader.

    Returns:
        The checkpoint, its tensors mapped from the file where that is possible. Empty for another scheme.

    Raises:
        CheckpointError: As :func:`load_checkpoint_file`.
    """
    if not can_be_checked(path_or_url):
        _check_scheme(path_or_url)
        return {}
    path = _check_local_file(path_or_url) if is_local(path_or_url) else _fetch(path_or_url)
    checkpoint = _read(path, path_or_url)
    _check_holds_weights(path_or_url, checkpoint)
    return checkpoint


def load_as_data(name: str, load: Callable[[], Any]) -> Any:
    """Let one of mmengine's loaders read a checkpoint, and keep it from executing anything.

    Whatever it calls, ``torch.load`` refuses a file that carries code. The text of the config that old checkpoints keep
    in ``meta['config']`` is left out: mmengine would run it as Python when a training is resumed.

    Args:
        name: The checkpoint's file, URL or other scheme.
        load: Reads it.

    Returns:
        What was read.

    Raises:
        CheckpointError: If that fails for any reason.
    """
    if is_local(name):
        _check_local_file(name)
    else:
        _check_scheme(name)
    try:
        with reading_as_data():
            checkpoint = load()
        check_plain(checkpoint)
    except CheckpointError as error:  # of the URL that the name stands for
        if name in str(error):
            raise
        raise CheckpointError(f"checkpoint '{name}': {error}") from error
    except Exception as error:  # a damaged pickle may raise almost any exception
        raise _explain(name, error) from error
    if isinstance(checkpoint, dict):
        if not isinstance(checkpoint.get("meta", {}), dict):  # mmengine would ask whatever it is for 'config' as well
            del checkpoint["meta"]
        meta_of(checkpoint).pop("config", None)
    return checkpoint


def load_from_http(filename: str, map_location: Any = None, *_: Any, **__: Any) -> Any:
    """Replaces mmengine's loader of that name, which reads downloaded files with ``weights_only`` off."""
    return load_plain(_fetch(filename), map_location)


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


def can_be_checked(name: str) -> bool:
    """Whether :func:`check_checkpoint_file` looks into a checkpoint of this name: a file or a URL."""
    return is_local(name) or name.startswith(("http://", "https://"))


def _fetch(url: str) -> str:
    try:
        return fetch(url, lambda path: _read(path, url))
    except CheckpointError:
        raise
    except Exception as error:
        raise _explain(url, error) from error


def _read(path: str, name: str) -> Any:
    try:
        return load_plain(path, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle may raise almost any exception
        raise _explain(name, error, read=path) from error


def _check_scheme(name: str) -> None:
    if CheckpointLoader._get_checkpoint_loader(name) is CheckpointLoader._schemes[""]:  # that of local files
        known = ", ".join(sorted(prefix.replace(r"(\S+\:)?", "") for prefix in CheckpointLoader._schemes if prefix))
        raise CheckpointError(
            f"checkpoint '{name}': no loader for '{name.partition('://')[0]}://' is registered. Give a file, or one of "
            f"{known}"
        )


def _check_local_file(path: str) -> str:
    path = osp.expanduser(path)
    if osp.isdir(path):
        raise CheckpointError(f"checkpoint '{path}' is a folder: name a .pth file in it")
    if not osp.isfile(path):
        raise CheckpointError(f"checkpoint '{path}' does not exist (relative paths start at {os.getcwd()})")
    if osp.getsize(path) == 0:
        raise CheckpointError(f"checkpoint '{path}' is an empty file: copy or download it again")
    return path


def _explain(name: str, error: Exception, read: str | None = None) -> CheckpointError:
    """The message for what went wrong with a checkpoint, of which ``read`` is the local copy where there is one."""
    text = str(error)
    refused, carried = is_not_plain(error), carried_name(error)
    if carried:
        return CheckpointError(
            f"checkpoint '{name}' carries code ({carried}) and was refused: loading it could "
            "run anything. If you trust who made it, ask for a file with nothing but weights: "
            "torch.save({'state_dict': model.state_dict()}, ...)"
        )
    if read is None and is_local(name):
        read = osp.expanduser(name)
    detail = f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
    if read is None and not refused:
        if isinstance(error, KeyError):
            return CheckpointError(f"checkpoint '{name}': mmengine has no weights of that name in its table")
        return CheckpointError(
            f"checkpoint '{name}' could not be fetched or read ({detail}). Check the address and the network, or "
            "download it elsewhere and give the file's path (for a backbone's first weights: its init_cfg.checkpoint)"
        )
    if osp.basename(name) == "last_checkpoint":
        return CheckpointError(f"'{name}' is the text file that names the last checkpoint: give the file that it names")
    if refused:  # torch's advice to switch the safety off is not ours
        detail = "its content is not in PyTorch's format"
    size = f"{osp.getsize(read)} bytes; " if read else ""
    return CheckpointError(
        f"checkpoint '{name}' is damaged or not a PyTorch checkpoint ({size}{detail}). Copy or download it again"
    )


def _check_holds_weights(path: str, checkpoint: object) -> None:
    weights = weights_of(checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"checkpoint '{path}' holds no weights: expected dict(state_dict=...) or a state dict")
