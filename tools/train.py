"""Train a detector or an image classifier, alone or distilled from a teacher. The command line is MMDetection's."""

import argparse
import os

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.device import get_device

from rekd_det.apis.command_line import (
    ToolParser,
    add_common_arguments,
    build_runner,
    choose_work_dir,
    exit_on_input_error,
)
from rekd_det.apis.config_file import read_config
from rekd_det.apis.evaluator_options import check_evaluators
from rekd_det.apis.first_weights import check_first_weights
from rekd_det.apis.hook_options import check_clip_grad, check_hooks
from rekd_det.apis.preflight import check_data, check_work_dir
from rekd_det.engine.runner import ReKDRunner
from rekd_det.engine.runner.start import decide_start
from rekd_det.utils.config_types import type_name
from rekd_det.utils.errors import InputError
from rekd_det.utils.options import check_known

#: what mmengine's AmpOptimWrapper takes that neither OptimWrapper nor BF16OptimWrapper does
_FP16_OPTIONS = ("loss_scale", "dtype", "use_fsdp")


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description="Train a detector or an image classifier")
    parser.add_argument("config", help="config file of a model, or of a distillation pair")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints")
    parser.add_argument("--amp", action="store_true", help="train with automatic mixed precision (bf16 on a CPU)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to the total batch size (auto_scale_lr.base_batch_size)",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from this checkpoint; without a value, from the newest one in the work dir, if there is one",
    )
    add_common_arguments(parser)
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Write what the command line says into the config."""
    cfg.launcher = args.launcher
    choose_work_dir(cfg, args.work_dir, args.config)
    name = type_name((cfg.get("optim_wrapper") or {}).get("type", "OptimWrapper"))
    if args.amp:
        if name not in ("OptimWrapper", "AmpOptimWrapper", "BF16OptimWrapper"):
            raise InputError(f"--amp can't be combined with optim_wrapper.type={name}; leave one of the two out")
        # mmengine's AmpOptimWrapper has no CPU mode, and bf16 stays what the config wants.
        if name == "BF16OptimWrapper" or get_device() == "cpu":
            cfg.optim_wrapper.type = "BF16OptimWrapper"
            for option in _FP16_OPTIONS if name == "AmpOptimWrapper" else ():
                cfg.optim_wrapper.pop(option, None)
        else:
            cfg.optim_wrapper.type = "AmpOptimWrapper"
            cfg.optim_wrapper.loss_scale = "dynamic"
    elif name == "AmpOptimWrapper" and get_device() == "cpu":
        raise InputError(
            "optim_wrapper.type='AmpOptimWrapper' needs a GPU, and there is none here: give --amp, which on a CPU "
            f"computes in bf16, or set optim_wrapper.type=OptimWrapper and leave out {', '.join(_FP16_OPTIONS)}"
        )
    if args.auto_scale_lr:
        scaling = cfg.get("auto_scale_lr") or {}
        check_known("auto_scale_lr", scaling, ("enable", "base_batch_size"))
        if "base_batch_size" not in scaling:
            raise InputError(f"--auto-scale-lr: '{args.config}' needs auto_scale_lr = dict(base_batch_size=...)")
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        if args.resume != "auto":
            cfg.load_from = args.resume


@exit_on_input_error
def main() -> None:
    args = parse_args()
    setup_cache_size_limit_of_dynamo()
    cfg = read_config(args.config, args.cfg_options)
    start = dict(resume=False, load_from=None, randomness=dict(seed=None))
    asked = {key: cfg.get(key, value) for key, value in start.items()}
    apply_arguments(cfg, args)
    check_work_dir(cfg.work_dir)
    note = decide_start(cfg, auto=args.resume == "auto")
    check_first_weights(cfg)
    check_hooks(cfg)
    check_clip_grad(cfg)
    check_evaluators(cfg, "val")
    check_data(cfg, ("train", "val"))
    # Also for a student alone: it resumes exactly, and sees the images of its pair with the same seed.
    runner = build_runner(cfg, default=ReKDRunner)
    if cfg.get("resume"):
        # The Runner has saved a config that resumes: a training from it would continue this one's checkpoint.
        for key, value in asked.items():
            runner.cfg[key] = value
        runner.dump_config()
    if note is not None:
        runner.logger.warning(note)
    runner.train()


if __name__ == "__main__":
    main()
