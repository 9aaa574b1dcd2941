"""Several processes without a GPU.

mmengine selects a CUDA device when it starts a process group, and gives its device to
``DistributedDataParallel``; neither works on a CPU. The Runner leaves both alone if the group runs
already and the config says how to wrap the model.
"""

import atexit
import os
import time

import torch.distributed as dist
from mmengine.config import Config

from rekd_det.utils.errors import InputError

# For each launcher, where it leaves the world size, this process's rank, and its rank on the node.
_LAUNCHER_VARIABLES = {
    "pytorch": ("WORLD_SIZE", "RANK", "LOCAL_RANK"),
    "slurm": ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


def start_gloo(launcher: str) -> None:
    """Start the process group of a launcher's processes with the gloo backend.

    Args:
        launcher: ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        InputError: If the launcher did not start this process, or the group cannot form.
    """
    if dist.is_initialized():
        return
    names = _LAUNCHER_VARIABLES[launcher]
    os.environ.setdefault("MASTER_PORT", "29500")
    missing = [name for name in (*names, "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise InputError(
            f"--launcher {launcher} needs the environment variable(s) {', '.join(missing)}: start "
            "through tools/dist_train.sh, tools/slurm_train.sh or mpirun, or leave --launcher out"
        )
    for target, source in zip(_LAUNCHER_VARIABLES["pytorch"], names, strict=True):
        os.environ[target] = os.environ[source]
    try:
        dist.init_process_group("gloo")
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise InputError(
            f"the processes could not meet at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}). "
            "Choose another PORT, and the same MASTER_ADDR on every node"
        ) from error
    # gloo's threads take the GIL to release the tensors of the last collective. If the interpreter has begun to end by
    # then, torch aborts the process. While this one sleeps, they get it.
    atexit.register(time.sleep, 0.2)


def wrap_without_device(cfg: Config) -> None:
    """Make the Runner wrap the model for the CPU. What the config says itself stays.

    Args:
        cfg: The Runner's config, changed in place.
    """
    defaults = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    if not cfg.get("model_wrapper_cfg"):
        cfg.model_wrapper_cfg = {}
    for key, value in defaults.items():
        cfg.model_wrapper_cfg.setdefault(key, value)
