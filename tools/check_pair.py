"""Check a distillation pair in a minute on a CPU, before its training. No data set is needed."""

import argparse
import sys

from rekd_det.analysis.pair_check.pair_check import check_pair
from rekd_det.analysis.pair_check.teacher_score import add_teacher_score
from rekd_det.analysis.utils.arguments import check_counts
from rekd_det.apis.cfg_options import CfgOptions
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.config_file import read_config
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import classifies_images


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("config", help="config file of a distillation pair")
    parser.add_argument("--limit", type=int, metavar="N", help="with data: the teacher's AP, or accuracy, on N images")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="generated images; default: 192 256, or its training's for a classifier and where the losses need them",
    )
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="override keys")
    args = parser.parse_args()
    check_counts(parser, args, "limit")
    return args


@exit_on_input_error
def main() -> None:
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    least = 8 if classifies_images(cfg) else 64
    if args.size is not None and min(args.size) < least:
        raise InputError(f"--size {args.size[0]} {args.size[1]}: at least {least} pixels are needed")
    found = check_pair(cfg, None if args.size is None else tuple(args.size))
    if args.limit is not None and not found.mistakes:
        try:
            add_teacher_score(cfg, args.limit, found)
        except InputError as error:  # a teacher of feature maps may know other categories than the data set
            alone = cfg.model.distiller.get("loss") is None
            (found.notes if alone else found.mistakes).append(f"--limit: the teacher has no score: {error}")
    print(found.text())
    if found.mistakes:
        sys.exit(1)


if __name__ == "__main__":
    main()
