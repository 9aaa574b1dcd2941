"""The weights that all arms of a study start from."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed

from rekd_det.utils.atomic import replacing
from rekd_det.utils.checkpoint import load_checkpoint_file
from rekd_det.utils.config_types import default_scope
from rekd_det.utils.errors import InputError
from studies.runner.builds import digest_of_weights
from studies.runner.digest import digest_of, plain
from studies.runner.run import Run


def write_first_weights(run: Run, folder: Path) -> Path:
    """Write the initialised student of a run, once for each student and seed.

    Args:
        run: whose student it is.
        folder: it must exist.

    Returns:
        The checkpoint, of the student alone; equal for all runs of one student config and seed.
    """
    student = digest_of(plain(run.student))
    path = folder / f"{student[:12]}-seed{run.seed}.pth"
    if path.is_file():
        return path
    init_default_scope(default_scope(run.config))
    set_random_seed(run.seed)
    model = MODELS.build(copy.deepcopy(run.student))  # which writes into what it is given
    model.init_weights()
    return _save({"meta": {}, "state_dict": model.state_dict()}, path)


def write_with_backbone(first: Path, trained: Path) -> Path:
    """Write first weights with the backbone of another checkpoint, once for each digest of its weights.

    Args:
        first: what :func:`write_first_weights` gave.
        trained: a checkpoint of mmengine's that holds weights of all of ``first``'s backbone under ``backbone.``.

    Returns:
        The new checkpoint, beside ``first``.

    Raises:
        InputError: ``trained`` has not all of the backbone.
    """
    path = first.with_name(f"{first.stem}-backbone-{digest_of_weights(trained)}.pth")
    if path.is_file():
        return path
    content = torch.load(first, weights_only=True)
    found = load_checkpoint_file(str(trained))["state_dict"]
    for name in content["state_dict"]:
        if name.startswith("backbone."):
            if name not in found:
                raise InputError(f"pretrain.config: its model trains no '{name}'; it needs the key `model.backbone`")
            content["state_dict"][name] = found[name]
    return _save(content, path)


def _save(content: dict, path: Path) -> Path:
    with replacing(path) as partial:
        torch.save(content, partial)
    return path
