"""Show a teacher's top-K set and tail over a data set: PNG, CSV and one HTML report. Nothing is trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from rekd_det.analysis.teacher.head_tail import HeadTail
from rekd_det.analysis.teacher.head_tail_report import suggestion_text, write_report
from rekd_det.analysis.teacher.pull import HEADER, Pull
from rekd_det.analysis.teacher.rows import rows_of
from rekd_det.analysis.utils.arguments import add_loader_arguments, add_pair_arguments, check_counts, top_k_of
from rekd_det.analysis.utils.pair import (
    batches,
    build_images,
    build_pair,
    check_images,
    choose,
    class_names,
    quiet,
    seed_samplers,
)
from rekd_det.analysis.utils.tables import markdown, write_csv
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.config_file import read_config
from rekd_det.apis.preflight import check_work_dir
from rekd_det.utils.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    add_pair_arguments(parser, split="train")
    parser.add_argument(
        "--checkpoint", help="weights of a trained student, which then proposes the rows and also judges them"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="K of the matrix; by default the loss's, or 5")
    parser.add_argument("--out", type=Path, help="folder of the report; default: work_dirs/CONFIG/head_tail")
    add_loader_arguments(parser)
    args = parser.parse_args()
    check_counts(parser, args, "limit", "top_k", "batch_size")
    return args


@exit_on_input_error
def main() -> None:
    args = parse_args()
    out = args.out or Path("work_dirs") / Path(args.config).stem / "head_tail"
    cfg = read_config(args.config, args.cfg_options)
    check_images(cfg, args.split)
    check_work_dir(str(out), "--out")
    quiet()
    model = build_pair(cfg, args.checkpoint, args.device)
    dataset = build_images(cfg, args.split)
    images = choose(dataset, args.limit)
    loss, found = model.distiller.loss, None
    # A student at the start of its training is wrong everywhere, so its gradients say nothing.
    pull = Pull(loss) if args.checkpoint else None
    judges = ("teacher", "student") if args.checkpoint else ("teacher",)
    seed_samplers()
    with tqdm(total=len(images), unit="img") as bar:
        for batch in batches(model, images, args.batch_size, args.workers):
            for rows in rows_of(model, batch):
                if found is None:
                    num_logits = rows.teacher.shape[1]
                    if num_logits == 1:
                        raise InputError("the student's head has one category and no background: there is no tail")
                    top_k = top_k_of(args.top_k, loss, num_logits)
                    names = class_names(dataset, rows.num_categories)
                    found = HeadTail(names, num_logits, top_k, rows.activation, loss.tau, judges)
                found.add(rows)
                if pull is not None:
                    pull.add(rows)
            bar.update(len(batch["data_samples"]))
    if found is None:
        raise InputError("the student's head has no row in these images; use more images (--limit)")
    student = f"the student of '{args.checkpoint}'" if args.checkpoint else "a student at the start of its training"
    about = (
        f"Config {args.config}, {len(images)} images of its {args.split} set, not augmented.",
        f"The rows are those of {student}.",
    )
    report = write_report(found, out, about)
    print(suggestion_text(found))
    if found.terms is not None and found.terms.table():
        print(f"A, TISD and NTID by category: {out / 'category_terms.csv'}")
    gradients = pull.table() if pull is not None else []
    if gradients:
        write_csv(out / "gradients.csv", HEADER, gradients)
        print("\nWhere the gradient on the student's logits comes from:\n")
        print("\n".join(markdown(HEADER, [[str(cell) for cell in line] for line in gradients])), end="\n\n")
    print(f"report: {report}")


if __name__ == "__main__":
    main()
