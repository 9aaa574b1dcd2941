"""Compare students of one pair with their teacher, row by row, where the teacher is confident. Nothing is trained."""

from __future__ import annotations

import argparse

from rekd_det.analysis.teacher.sure_rows import Agreement, sure_rows
from rekd_det.analysis.utils.arguments import check_counts
from rekd_det.analysis.utils.students import add_student_arguments, count_students, show_students
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.config_file import read_config
from rekd_det.utils.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    add_student_arguments(parser)
    parser.add_argument("--least", type=float, default=0.3, metavar="P", help="least probability in the compared rows")
    args = parser.parse_args()
    check_counts(parser, args, "limit", "top_k", "batch_size")
    if not 0 <= args.least < 1:
        parser.error("--least must be a probability below 1")
    return args


@exit_on_input_error
def main() -> None:
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    table = []
    counted = count_students(cfg, args, Agreement, lambda model, batch: sure_rows(model, batch, args.least))
    for checkpoint, found in counted:
        if not found.rows:
            raise InputError(
                f"no row of these images reaches --least {args.least}; use more images, or a lower --least"
            )
        names = ("same top 1", f"share of the teacher's top {found.top_k}", "KL")
        figures = dict(zip(names, found.result().values(), strict=True))
        table.append(dict(student=checkpoint, rows=found.rows) | figures)
    show_students(table, args.out)


if __name__ == "__main__":
    main()
