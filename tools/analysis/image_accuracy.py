"""Show where the students of a pair of classifiers are right: among look-alikes, on easy and on hard images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from rekd_det.analysis.teacher.image_accuracy import ImageAccuracy
from rekd_det.analysis.teacher.rows import aligned_logits
from rekd_det.analysis.utils.arguments import check_counts
from rekd_det.analysis.utils.students import add_student_arguments, count_students, show_students
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.config_file import read_config
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import classifies_images


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    add_student_arguments(parser)
    args = parser.parse_args()
    check_counts(parser, args, "limit", "top_k", "batch_size")
    return args


def labelled(model: Any, batch: dict) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for rows in aligned_logits(model, batch):
        if rows.labels is None:
            raise InputError("these images have no single label each")
        yield rows.student, rows.teacher, rows.labels


@exit_on_input_error
def main() -> None:
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    if not classifies_images(cfg):
        raise InputError("this config is a detector's: only the images of a classifier have one label each")
    counted = count_students(cfg, args, ImageAccuracy, labelled)
    show_students([{"student": checkpoint, **found.result()} for checkpoint, found in counted], args.out)


if __name__ == "__main__":
    main()
