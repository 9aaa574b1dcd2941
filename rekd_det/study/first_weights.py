"""The weights that all arms of a study start from."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from ..atomic import publish_file
from .plan import Run, digest_of


def write_first_weights(run: Run, folder: Path) -> Path:
    """Write the initialised student of a run, once for each student and seed.

    Args:
        run: whose student it is.
        folder: it must exist.

    Returns:
        The checkpoint, of the student alone; equal for all runs of one student config and seed.
    """
    student = digest_of(run.student)
    path = folder / f"{student[:12]}-seed{run.seed}.pth"
    if path.is_file():
        return path
    init_default_scope(run.config.get("default_scope", "mmdet"))
    random.seed(run.seed)
    np.random.seed(run.seed)
    torch.manual_seed(run.seed)
    model = MODELS.build(copy.deepcopy(run.student))  # which writes into what it is given
    model.init_weights()
    partial = f"{path}.{os.getpid()}.partial"
    torch.save({"meta": {}, "state_dict": model.state_dict()}, partial)
    publish_file(partial, str(path))
    return path
