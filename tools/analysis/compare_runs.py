"""Compare training runs by what they logged: curves, AP by size and by category, as Markdown, CSV and PNG."""

from __future__ import annotations

import argparse
from pathlib import Path

from rekd_det.analysis.runs.category_ap import find_results, recompute
from rekd_det.analysis.runs.comparison import write_comparison
from rekd_det.analysis.runs.runs import Run, read_runs
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.preflight import check_work_dir
from rekd_det.utils.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="DIR", help="work dirs; the others are compared with the first")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/compare_runs"), help="folder of the report")
    parser.add_argument(
        "--ann-file",
        metavar="FILE",
        help="COCO annotations: AP by category is then computed from DIR/**/*.bbox.json (*.segm.json if masks were "
        "evaluated) where the log has none",
    )
    args = parser.parse_args()
    if args.ann_file is not None and not Path(args.ann_file).is_file():
        parser.error(f"--ann-file: '{args.ann_file}' does not exist")
    return args


def categories_of(run: Run, ann_file: str | None) -> dict[str, float]:
    """AP by category: logged, or recomputed from a file of detections; empty where there is neither."""
    logged = run.per_category()
    if logged or ann_file is None:
        return logged
    task = "segm" if "segm_mAP" in run.val else "bbox"  # of several metrics, the log of other runs has the last one
    results = find_results(run.folder, task)
    return {} if results is None else recompute(results, ann_file, task)


@exit_on_input_error
def main() -> None:
    args = parse_args()
    runs = read_runs(args.runs)
    if len(runs) < 2:
        raise InputError("one run can't be compared: give at least two work dirs")
    check_work_dir(str(args.out), "--out")
    report = write_comparison(runs, [categories_of(run, args.ann_file) for run in runs], args.out)
    print(report.read_text(encoding="utf-8"))
    print(f"report: {report}")


if __name__ == "__main__":
    main()
