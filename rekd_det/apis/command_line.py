"""What ``tools/train.py`` and ``tools/test.py`` share."""

import argparse
import functools
import os
import os.path as osp
import sys
from collections.abc import Callable

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from rekd_det.apis.build_errors import explain_build_error
from rekd_det.engine.runner.cpu_dist import start_gloo, wrap_without_device
from rekd_det.models.utils.finite_guard import NonFiniteLoss
from rekd_det.utils.errors import InputError


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of MMDetection's command line that training and testing share."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override keys of the config, e.g. model.distiller.loss.top_k=3. Lists are written "
        'key="[a,b]" or key=a,b, and may nest: key="[(a,b),(c,d)]" (quoted, without blanks)',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes of a distributed run",
    )
    # torchrun sets LOCAL_RANK; the older torch.distributed.launch passes this option instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def export_local_rank(local_rank: int) -> None:
    """Put the launcher's ``--local-rank`` where mmengine looks for it."""
    os.environ.setdefault("LOCAL_RANK", str(local_rank))


def choose_work_dir(cfg: Config, work_dir: str | None, config_path: str) -> None:
    """Set ``cfg.work_dir``: the option first, then the config, then the config file's name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = osp.join("work_dirs", osp.splitext(osp.basename(config_path))[0])


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of a config, also for several processes without a GPU."""
    if cfg.launcher != "none" and not torch.cuda.is_available():
        start_gloo(cfg.launcher)
        wrap_without_device(cfg)
    try:
        return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    except InputError:
        raise
    except Exception as error:
        message = explain_build_error(error, always=True)
        if message is None:
            raise
        raise message from error


def exit_on_input_error(main: Callable[[], None]) -> Callable[[], None]:
    """Let a program end with one message and status 1, not a traceback, on a mistake in what it was given.

    That is an `InputError`, an error while something is built from a config, or losses that are no numbers any more.
    """

    @functools.wraps(main)
    def guarded() -> None:
        try:
            main()
        except (InputError, NonFiniteLoss) as error:
            sys.exit(f"error: {error}")
        except Exception as error:
            message = explain_build_error(error)
            if message is None:
                raise
            sys.exit(f"error: {message}")

    return guarded
