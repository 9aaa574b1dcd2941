"""Compare students of one pair with their teacher, row by row, where the teacher is confident. Nothing is trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from rekd_det.analysis.teacher.sure_rows import Agreement, sure_rows
from rekd_det.analysis.utils.arguments import add_loader_arguments, add_pair_arguments, check_counts
from rekd_det.analysis.utils.pair import (
    AnalysisError,
    batches,
    build_images,
    build_pair,
    check_images,
    choose,
    quiet,
    seed_samplers,
)
from rekd_det.analysis.utils.tables import markdown, write_csv
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.preflight import read_config


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    add_pair_arguments(parser, split="val")
    parser.add_argument("checkpoints", nargs="+", metavar="STUDENT.pth", help="trained students, distilled or not")
    parser.add_argument("--least", type=float, default=0.3, metavar="P", help="least probability in the compared rows")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="size of the top-K sets that are compared")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="also write the table to this file")
    add_loader_arguments(parser)
    args = parser.parse_args()
    check_counts(parser, args, "limit", "top_k", "batch_size")
    if not 0 <= args.least < 1:
        parser.error("--least must be a probability below 1")
    return args


@exit_on_input_error
def main() -> None:
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    check_images(cfg, args.split)
    quiet()
    images = choose(build_images(cfg, args.split), args.limit)
    table = []
    for checkpoint in args.checkpoints:
        model = build_pair(cfg, checkpoint, args.device)
        found = Agreement(args.top_k)
        seed_samplers()
        with tqdm(total=len(images), unit="img", desc=Path(checkpoint).stem) as bar:
            for batch in batches(model, images, args.batch_size, args.workers):
                for rows in sure_rows(model, batch, args.least):
                    found.add(*rows)
                bar.update(len(batch["data_samples"]))
        if not found.rows:
            raise AnalysisError(
                f"no row of these images reaches --least {args.least}; use more images, or a lower --least"
            )
        table.append([checkpoint, found.rows, *(round(v, 4) for v in found.result().values())])
    header = ["student", "rows", "same top 1", f"share of the teacher's top {args.top_k}", "KL"]
    print("\n".join(markdown(header, [[str(cell) for cell in row] for row in table])))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_csv(args.out, header, table)


if __name__ == "__main__":
    main()
