"""What the programs in ``tools/`` share: options, the Runner, and how they end on an error."""

import argparse
import functools
import logging
import os
import os.path as osp
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from rekd_det.apis.build_errors import BuildError, explain_build_error, went_through_own_code
from rekd_det.apis.cfg_options import CfgOptions
from rekd_det.engine.runner.cpu_dist import start_gloo, wrap_without_device
from rekd_det.models.utils.finite_guard import NonFiniteLoss
from rekd_det.utils.errors import CheckpointError, InputError


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of MMDetection's command line that training and testing share."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
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
    # torchrun sets LOCAL_RANK, where mmengine looks; the older torch.distributed.launch passes this option instead, and
    # Open MPI has a variable of its own.
    local_rank = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)
    parser.add_argument("--local_rank", "--local-rank", type=int, default=local_rank)


def choose_work_dir(cfg: Config, work_dir: str | None, config_path: str) -> None:
    """Set ``cfg.work_dir``: the option first, then the config, then the config file's name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = osp.join("work_dirs", osp.splitext(osp.basename(config_path))[0])


def build_runner(cfg: Config, default: type[Runner] = Runner) -> Runner:
    """Build the Runner of a config, also for several processes without a GPU.

    Args:
        cfg: the config.
        default: the Runner of a config without ``runner_type``.
    """
    if cfg.launcher != "none" and not torch.cuda.is_available():
        start_gloo(cfg.launcher)
        wrap_without_device(cfg)
    try:
        return RUNNERS.build(cfg) if "runner_type" in cfg else default.from_cfg(cfg)
    except InputError:
        raise
    except Exception as error:
        message = explain_build_error(error, always=True)
        if message is None:
            raise
        raise message from error


class ToolParser(argparse.ArgumentParser):
    """The parser of a program that :func:`exit_on_input_error` guards: it takes ``--traceback`` too."""

    traceback_wanted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:  # parse_args calls it
        """As argparse's, and note whether tracebacks are wanted."""
        parsed, rest = super().parse_known_args(*args, **kwargs)
        ToolParser.traceback_wanted = parsed.traceback
        return parsed, rest


def exit_on_input_error(main: Callable[[], None]) -> Callable[[], None]:
    """Let a program end with one message and status 1, not a traceback, on a mistake in what it was given.

    That is an `InputError`, an error while something is built from a config, or losses that are NaN or infinite.
    The run's log file has the traceback of every error. It is shown as well if the program got ``--traceback``, and
    where the error came through code that is not of this package, OpenMMLab or torch: its author needs it.
    """

    @functools.wraps(main)
    def guarded() -> None:
        ToolParser.traceback_wanted = False
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # mmengine's; it tells a user nothing
        try:
            main()
        except Exception as error:
            log = _write_to_log(error)
            explained = error if isinstance(error, (InputError, NonFiniteLoss)) else explain_build_error(error)
            if explained is None:
                raise
            may_be_own = isinstance(explained, (BuildError, CheckpointError))
            cause = error.__cause__ if may_be_own and error.__cause__ else error
            if ToolParser.traceback_wanted or (may_be_own and went_through_own_code(cause)):
                traceback.print_exception(cause)
                sys.exit(f"error: {explained}")
            where = f"the traceback is in {log}" if log else "--traceback shows where it was raised"
            sys.exit(f"error: {explained}\n({where})")

    return guarded


def _write_to_log(error: Exception) -> str | None:
    """Write an error with its traceback to the log file of the run, where there is one; returns the file's path."""
    if not MMLogger._instance_dict:
        return None
    logger = MMLogger.get_current_instance()
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            trace = (type(error), error, error.__traceback__)
            handler.handle(logger.makeRecord(logger.name, logging.ERROR, "", 0, "the run has failed", (), trace))
            return osp.relpath(handler.baseFilename)
    return None
