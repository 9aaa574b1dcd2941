"""Evaluate a detector or an image classifier. The command line is MMDetection's, with ``--teacher`` added.

For a distillation config only the student is built and evaluated; its checkpoint may be one of
the distillation or a plain detector's.
"""

import argparse
import os
import os.path as osp
import warnings
from copy import deepcopy

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config, ConfigDict

from rekd_det.apis.command_line import (
    ToolParser,
    add_common_arguments,
    build_runner,
    choose_work_dir,
    exit_on_input_error,
)
from rekd_det.apis.config_file import read_config
from rekd_det.apis.evaluator_options import check_evaluators, evaluators_of
from rekd_det.apis.mask_prediction import predicts_masks
from rekd_det.apis.preflight import check_data, check_work_dir
from rekd_det.engine.hooks import StudentWeightsHook
from rekd_det.engine.hooks.tested_categories_hook import TestedCategoriesHook
from rekd_det.utils.checkpoint import check_checkpoint_file, is_local
from rekd_det.utils.config_types import default_scope, type_name
from rekd_det.utils.dataset_configs import plain_datasets
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import classifies_images, student_config, teacher_config


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description="Test (and evaluate) a detector or an image classifier")
    parser.add_argument("config", help="config file of a model, or of a distillation pair")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="checkpoint file; with --teacher it may be left out (then model.teacher_ckpt)",
    )
    parser.add_argument("--teacher", action="store_true", help="evaluate the teacher of a pair, not its student")
    parser.add_argument("--work-dir", help="folder for the log with the metrics")
    parser.add_argument("--out", help="dump the predictions to this .pkl file")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument(
        "--show-dir",
        help="save pictures of the predictions in this folder under WORK_DIR/TIMESTAMP (a classifier's: WORK_DIR)",
    )
    parser.add_argument("--wait-time", type=float, default=2, help="seconds for which --show shows a picture")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    add_common_arguments(parser)
    args = parser.parse_intermixed_args()  # a checkpoint may follow an option
    if args.checkpoint is None and not args.teacher:
        parser.error("the following arguments are required: checkpoint")
    if args.out is not None and not args.out.endswith((".pkl", ".pickle")):
        parser.error("--out: the file's name must end in .pkl or .pickle")
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def select_model(cfg: Config, args: argparse.Namespace) -> Config:
    """The config of the one detector to evaluate, with its checkpoint as ``load_from``."""
    if not args.teacher:
        cfg = student_config(cfg)
        cfg.load_from = args.checkpoint
        return cfg
    cfg = teacher_config(cfg)
    cfg.load_from = args.checkpoint or cfg.load_from
    if not cfg.load_from:
        raise InputError("--teacher: the config has no model.teacher_ckpt; give a checkpoint")
    return cfg


def show_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Let a hook draw the predictions of each image."""
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    if not hooks.get("visualization"):
        kind = "VisualizationHook" if classifies_images(cfg) else "DetVisualizationHook"
        hooks.visualization = ConfigDict(type=kind)
    if not classifies_images(cfg):
        trigger_visualization_hook(cfg, args)
        return
    hook = hooks.visualization
    hook.update(enable=True, interval=1, show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        hook.out_dir = osp.join(cfg.work_dir, args.show_dir)


def enable_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation; by default over the flipped image."""
    if "tta_model" not in cfg and classifies_images(cfg):
        cfg.tta_model = dict(type="AverageClsScoreTTA")
    if "tta_model" not in cfg:
        warnings.warn("no `tta_model` in the config: merging by NMS at IoU 0.5", stacklevel=2)
        nms = dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
        cfg.tta_model = dict(type="DetTTAModel", tta_cfg=nms)
    if type_name(cfg.tta_model.get("type")) == "DetTTAModel" and predicts_masks(cfg.model):
        raise InputError(
            f"--tta: mmdet's DetTTAModel merges boxes, and model ({type_name(cfg.model.type)}) predicts masks as well; "
            "leave --tta out"
        )
    datasets = [dataset for _, dataset in plain_datasets(cfg.test_dataloader.dataset)]
    pipeline = datasets[0].pipeline
    if "tta_pipeline" not in cfg:
        warnings.warn("no `tta_pipeline` in the config: testing with and without flip", stacklevel=2)
        flips = [dict(type=f"{default_scope(cfg)}.RandomFlip", prob=prob) for prob in (1.0, 0.0)]
        pack = deepcopy(pipeline[-1])
        if not classifies_images(cfg):
            pack.meta_keys = (
                *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
                *("flip", "flip_direction"),
            )
        augment = dict(type="TestTimeAug", transforms=[flips, [pack]])
        cfg.tta_pipeline = [*deepcopy(pipeline[:-1]), augment]
    # not ConfigDict(**...), which mmengine can't save if a value is a class
    wrapped = deepcopy(cfg.tta_model)
    wrapped.module = cfg.model
    cfg.model = wrapped
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


@exit_on_input_error
def main() -> None:
    args = parse_args()
    setup_cache_size_limit_of_dynamo()
    cfg = select_model(read_config(args.config, args.cfg_options), args)
    if cfg.get("test_dataloader") is None:
        raise InputError(f"config '{args.config}' has no test_dataloader, so there is nothing to test on")
    cfg.launcher = args.launcher
    cfg.resume = False
    choose_work_dir(cfg, args.work_dir, args.config)
    check_work_dir(cfg.work_dir)
    if args.out is not None:
        if osp.isdir(args.out):
            raise InputError(f"--out '{args.out}' is a folder: name a file in it")
        check_work_dir(osp.dirname(args.out) or ".", "--out")
    for key, evaluator in evaluators_of(cfg, "test"):
        for option in ("outfile_prefix", "out_file_path"):
            target = evaluator.get(option)
            if target and is_local(target):
                check_work_dir(osp.dirname(target) or ".", f"--cfg-options {key}.{option}")
    check_checkpoint_file(cfg.load_from)
    check_evaluators(cfg, "test")
    check_data(cfg, ("test",))
    if args.show or args.show_dir:
        show_predictions(cfg, args)
    if args.tta:
        enable_tta(cfg)
    # The Runner saves its config under this name; the training's config in the same folder must stay.
    stem, suffix = osp.splitext(args.config)
    object.__setattr__(cfg, "_filename", f"{stem}_test{suffix}")
    runner = build_runner(cfg)
    runner.register_hook(TestedCategoriesHook())
    runner.register_hook(StudentWeightsHook())
    if args.out is not None:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()


if __name__ == "__main__":
    main()
