"""Show where the students of a pair of classifiers are right: among look-alikes, on easy and on hard images."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from rekd_det.analysis.teacher.image_accuracy import ImageAccuracy
from rekd_det.analysis.teacher.rows import aligned_logits
from rekd_det.analysis.utils.arguments import add_loader_arguments, add_pair_arguments, check_counts
from rekd_det.analysis.utils.pair import (
    AnalysisError,
    batches,
    build_images,
    build_pair,
    check_images,
    choose,
    quiet,
)
from rekd_det.analysis.utils.tables import markdown, write_csv
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.preflight import read_config
from rekd_det.utils.pair_config import classifies_images


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    add_pair_arguments(parser, split="val")
    parser.add_argument("checkpoints", nargs="+", metavar="STUDENT.pth", help="trained students, distilled or not")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="size of the teacher's set")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="also write the table to this file")
    add_loader_arguments(parser)
    args = parser.parse_args()
    check_counts(parser, args, "limit", "top_k", "batch_size")
    return args


@exit_on_input_error
def main() -> None:
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    if not classifies_images(cfg):
        raise AnalysisError("this config is a detector's: only the images of a classifier have one label each")
    check_images(cfg, args.split)
    quiet()
    images = choose(build_images(cfg, args.split), args.limit)
    header, table = [""], []
    for checkpoint in args.checkpoints:
        model = build_pair(cfg, checkpoint, args.device)
        found = ImageAccuracy(args.top_k)
        with tqdm(total=len(images), unit="img", desc=Path(checkpoint).stem) as bar:
            for batch in batches(model, images, args.batch_size, args.workers):
                for rows in aligned_logits(model, batch):
                    if rows.labels is None:
                        raise AnalysisError("these images have no single label each")
                    found.add(rows.student, rows.teacher, rows.labels)
                bar.update(len(batch["data_samples"]))
        result = found.result()
        header = ["student", *result]
        table.append([checkpoint, *(round(v, 4) for v in result.values())])
    print("\n".join(markdown(header, [[str(cell) for cell in row] for row in table])))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_csv(args.out, header, table)


if __name__ == "__main__":
    main()
