"""Write the student of a distilled checkpoint as a plain MMDetection checkpoint for the student's own config."""

import argparse
import os

import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.config_file import read_config
from rekd_det.apis.export import (
    check_carried_config,
    check_distilled,
    check_target,
    count_parameters,
    export_student,
    stored_megabytes,
)
from rekd_det.apis.preflight import check_work_dir
from rekd_det.utils.atomic import replacing
from rekd_det.utils.checkpoint import load_checkpoint_file
from rekd_det.utils.checkpoint_content import meta_of
from rekd_det.utils.config_text import parse_config_text
from rekd_det.utils.errors import CheckpointError, InputError
from rekd_det.utils.pair_config import is_pair, teacher_config
from rekd_det.utils.registered_names import check_registered


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("checkpoint", help="checkpoint of a distillation")
    parser.add_argument("-o", "--out", required=True, help="the file to write; an older export is replaced")
    parser.add_argument("--config", help="config of the pair or its student; by default the one in the checkpoint")
    parser.add_argument("--fp16", action="store_true", help="store the weights in half precision")
    return parser.parse_args()


def find_config(args: argparse.Namespace, checkpoint: dict) -> Config:
    """The config from the command line, or the one that the checkpoint carries."""
    if args.config is not None:
        return read_config(args.config)
    text = meta_of(checkpoint).get("cfg")
    if not isinstance(text, str):
        raise CheckpointError(f"checkpoint '{args.checkpoint}' carries no config: give it with --config")
    source = f"checkpoint '{args.checkpoint}'"
    cfg = parse_config_text(text, source)
    check_carried_config(cfg, source)
    return cfg


def may_be_built(teacher: object) -> bool:
    """Whether the teacher in a checkpoint's own config can be built without running a file that it names."""
    try:
        check_registered(teacher, "", built=True)
    except InputError:
        return False
    return True


def describe(cfg: Config, student: torch.nn.Module, exported: dict, path: str, trusted: bool) -> str:
    """What was written, compared with the teacher if the config is trusted or names no file for it."""
    params = count_parameters(student)
    lines = [f"wrote {path}: {params / 1e6:.2f} M parameters, {os.path.getsize(path) / 1e6:.1f} MB"]
    if is_pair(cfg.get("model")) and (trusted or may_be_built(cfg.model.teacher)):
        teacher = MODELS.build(teacher_config(cfg).model)
        theirs, size = count_parameters(teacher), stored_megabytes(teacher.state_dict())
        share = stored_megabytes(exported["state_dict"]) / size
        lines.append(
            f"its teacher: {theirs / 1e6:.2f} M parameters, {size:.1f} MB in fp32; "
            f"the student has {params / theirs:.0%} of the parameters and {share:.0%} of the size"
        )
    return "\n".join(lines)


@exit_on_input_error
def main() -> None:
    args = parse_args()
    check_target(args.out, args.checkpoint)
    checkpoint = load_checkpoint_file(args.checkpoint)
    check_distilled(checkpoint, f"checkpoint '{args.checkpoint}'")
    cfg = find_config(args, checkpoint)
    exported, student = export_student(checkpoint, cfg, f"checkpoint '{args.checkpoint}'", half=args.fp16)
    folder = os.path.dirname(args.out) or "."
    check_work_dir(folder, "--out")
    with replacing(args.out) as partial:
        torch.save(exported, partial)
    print(describe(cfg, student, exported, args.out, trusted=args.config is not None))


if __name__ == "__main__":
    main()
