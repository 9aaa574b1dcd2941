"""Decide for all processes where a training starts."""

from __future__ import annotations

import os
import os.path as osp
import socket
import warnings
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.dist import all_gather_object, barrier, broadcast, broadcast_object_list, init_dist, is_main_process

from rekd_det.engine.runner.cpu_dist import start_gloo
from rekd_det.engine.runner.latest_checkpoint import (
    check_resumable,
    find_latest_checkpoint,
    moved_aside,
    named_by_last_checkpoint,
)
from rekd_det.utils.atomic import replacing
from rekd_det.utils.checkpoint import can_be_checked, check_checkpoint_file, is_local
from rekd_det.utils.errors import CheckpointError, InputError

_CHUNK = 1 << 26  # bytes that travel at once
_IDENTITY = ("epoch", "iter", "time", "seed", "experiment_name")


def decide_start(cfg: Config | dict, auto: bool = False) -> str | None:
    """Settle ``cfg['resume']`` and ``cfg['load_from']``, the same for all processes.

    The main process finds the checkpoint and sends it to nodes that lack it because the nodes share no disk.

    Args:
        cfg: the Runner's config, changed in place. Its process group is started if it has a launcher.
        auto: resume from the newest checkpoint in ``work_dir`` and, where there is none yet, start from ``load_from``.
            Without it, ``resume=True`` means ``load_from`` if that is set, as in mmengine.

    Returns:
        A message for the user, or None.

    Raises:
        InputError: in all processes if a checkpoint can't be used in one of them.
    """
    _start_group(cfg)
    resume, first = bool(cfg.get("resume")), cfg.get("load_from")
    if first and (moved := moved_aside(first)):
        warnings.warn(f"'{first}' was moved when a later training started in its folder: using '{moved}'", stacklevel=2)
        cfg["load_from"] = first = moved
    if not resume:
        if first:
            in_all(lambda: check_checkpoint_file(first))
        return None
    out_dir = ((cfg.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
    path, identity = _from_main(lambda: _find(cfg["work_dir"], out_dir, None if auto else first))
    if path is None:
        cfg["resume"] = False
        instead = f"the training starts from load_from='{first}'" if first else "the training starts anew"
        if first:
            in_all(lambda: check_checkpoint_file(first))
        gone = named_by_last_checkpoint(cfg["work_dir"])
        why = f" (last_checkpoint names '{gone}', which is not there, or not this run's)" if gone else ""
        return f"No checkpoint in {cfg['work_dir']} to resume from{why}: {instead}."
    cfg["load_from"] = path
    return _share(path, identity) if identity is not None else None


def _start_group(cfg: Config | dict) -> None:
    launcher = cfg.get("launcher", "none")
    if launcher == "none" or torch_dist.is_initialized():
        return
    if torch.cuda.is_available():
        init_dist(launcher, **((cfg.get("env_cfg") or {}).get("dist_cfg") or {}))
    else:
        start_gloo(launcher)


def _find(work_dir: str, out_dir: str | None, named: str | None) -> tuple[str | None, tuple | None]:
    path = named or find_latest_checkpoint(work_dir, out_dir)
    if path is None:
        return None, None
    if is_local(path):
        return path, _identity(path)  # which checks it
    if can_be_checked(path):
        check_resumable(path)
    return path, None


def _identity(path: str) -> tuple:
    """What distinguishes checkpoints of the same name."""
    meta = check_resumable(path)
    return (osp.getsize(osp.expanduser(path)), *(meta.get(key) for key in _IDENTITY))


def _share(path: str, identity: tuple) -> str | None:
    """Send the main process's checkpoint to every node that lacks it."""
    target = osp.expanduser(path)
    # A shared disk may show a new file late: a process that sees another size there has another file all the same.
    if is_main_process():
        state = "same"  # it is the one that found it
    else:
        state = "missing" if not osp.exists(target) else "same" if _is_same(path, identity) else "other"
    states = all_gather_object((state, socket.gethostname()))
    others = sorted({f"rank {rank} on {host}" for rank, (s, host) in enumerate(states) if s == "other"})
    if others:
        raise CheckpointError(
            f"'{path}' is another file for {', '.join(others)} than for rank 0, which resumes from it: remove it there "
            "(rank 0 sends its own), or put work_dir on a disk that all nodes share"
        )
    missing = [f"rank {rank} on {host}" for rank, (s, host) in enumerate(states) if s == "missing"]
    if not missing:
        return None
    writes = state == "missing" and os.environ.get("LOCAL_RANK", "0") == "0"
    in_all(lambda: _send(target, identity[0], writes))
    barrier()
    in_all(lambda: _check_received(path, identity))
    return f"Rank 0 sent its checkpoint {path} to {', '.join(missing)}, which had none of that name."


def _is_same(path: str, identity: tuple) -> bool:
    try:
        return _identity(path) == identity
    except InputError:
        return False


def _check_received(path: str, identity: tuple) -> None:
    if not _is_same(path, identity):
        raise CheckpointError(f"the checkpoint '{path}' that rank 0 sent did not arrive whole; copy it there by hand")


def _send(target: str, size: int, writes: bool) -> None:
    """Broadcast the main process's file; those that lack it write it, one process a node."""
    chunks = _chunks(target, size)
    try:
        if writes:
            os.makedirs(osp.dirname(target) or ".", exist_ok=True)
            with replacing(target) as partial, open(partial, "wb") as file:
                for chunk in chunks:
                    file.write(chunk.numpy().tobytes())
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint '{target}' that rank 0 sends can't be written: {error.strerror}"
        ) from error
    finally:
        for _ in chunks:  # a process that can't write must not make the others wait
            pass


def _chunks(path: str, size: int) -> Any:
    file = open(path, "rb") if is_main_process() else None  # noqa: SIM115 - closed below
    try:
        for start in range(0, size, _CHUNK):
            length = min(_CHUNK, size - start)
            chunk = torch.empty(length, dtype=torch.uint8)
            if file is not None:
                chunk = torch.frombuffer(bytearray(file.read(length)), dtype=torch.uint8)
            broadcast(chunk, src=0)
            yield chunk
    finally:
        if file is not None:
            file.close()


def _from_main(call: Any) -> Any:
    """The main process's result of a call; its error is raised in all processes."""
    result: list = [None, None]
    own: InputError | None = None
    if is_main_process():
        try:
            result[0] = call()
        except InputError as error:
            own, result[1] = error, str(error)
    broadcast_object_list(result)
    if result[1] is not None:
        raise CheckpointError(result[1]) from own
    return result[0]


def in_all(call: Any) -> None:
    """Make a call in every process; the error of one is raised in all, so no process waits for it."""
    own: InputError | None = None
    try:
        call()
    except InputError as error:
        own = error
    faults = all_gather_object((None if own is None else str(own), socket.gethostname()))
    for rank, (text, host) in enumerate(faults):
        if text is not None:
            where = f" (rank {rank} on {host})" if len(faults) > 1 else ""
            raise CheckpointError(text + where) from own
