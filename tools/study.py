"""Run an accuracy study: several ways to train (arms), each with several seeds, and a report of the results.

A second call continues where the first one was stopped; finished runs are kept, failed ones are tried again. Studies
that share OUT share their data, their teachers and their common runs. A run whose result was committed to
RESULTS/*/results.jsonl counts as finished, also on another machine; to keep the results of a sitting, copy OUT/NAME
there.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rekd_det.apis.command_line import ToolParser, exit_on_input_error  # noqa: E402
from rekd_det.apis.preflight import check_work_dir  # noqa: E402
from rekd_det.utils.errors import InputError  # noqa: E402
from studies.runner.committed import RESULTS  # noqa: E402
from studies.runner.eta import budget_seconds  # noqa: E402
from studies.runner.gpu_hours import estimate  # noqa: E402
from studies.runner.launcher import LAUNCHERS, Launcher  # noqa: E402
from studies.runner.plan import make_plan  # noqa: E402
from studies.runner.processes import SILENCE_S  # noqa: E402
from studies.runner.run_study import choose_arms, report_study, run_study  # noqa: E402
from studies.runner.study_file import read_study  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("study", type=Path, metavar="STUDY.yml", help="a study file, like studies/groceries_frcnn.yml")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/study"), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once: one per GPU, or two without a GPU")
    parser.add_argument("--only", nargs="+", default=[], metavar="ARM", help="run these arms alone")
    parser.add_argument(
        "--silence",
        type=float,
        default=SILENCE_S / 60,
        metavar="MINUTES",
        help="a training without output for this time is killed and counts as failed (default: %(default)g)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="committed results (default: the folder `results` next to STUDY.yml)",
    )
    parser.add_argument("--budget", metavar="TIME", help="stop after 90m, 2h or 1h30m; only runs that fit are started")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="none",
        help="how a training is started on several GPUs",
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="of one training, with a launcher")
    parser.add_argument("--partition", default="", help="of Slurm, with --launcher slurm")
    parser.add_argument(
        "--estimate",
        type=float,
        metavar="TFLOPS",
        help="run nothing, print the GPU hours on COCO for a GPU that reaches this many 1e12 operations per second",
    )
    parser.add_argument("--report", action="store_true", help="run nothing, write the report of the results so far")
    args = parser.parse_args()
    if args.estimate is not None and not args.estimate > 0:
        parser.error(f"--estimate must be more than 0, got {args.estimate:g}")
    if args.report and args.only:
        parser.error("--report covers all arms; leave out --only")
    if not args.silence > 0:
        parser.error(f"--silence must be more than 0 minutes, got {args.silence:g}")
    return args


@exit_on_input_error
def main() -> None:
    args = parse_args()
    study, root = read_study(args.study), args.out.absolute()
    if args.results is not None:
        if not args.results.is_dir():
            raise InputError(f"--results '{args.results}' is no folder; an empty one holds no results")
        if (args.results / RESULTS).is_file():
            raise InputError(f"--results '{args.results}' holds one study's results: give '{args.results.parent}'")
        study = replace(study, results=args.results)
    launcher = Launcher(args.launcher, args.gpus, args.partition)
    budget = None if args.budget is None else budget_seconds(args.budget)
    failed = 0
    if args.estimate is not None:
        chosen = choose_arms(study, args.only)
        print("\n".join(estimate(make_plan(study), args.estimate, chosen)))
        return
    check_work_dir(str(root), "--out")
    if args.report:
        report_study(study, root)
    else:
        tools = Path(__file__).resolve().parent
        failed = run_study(study, root, tools, args.jobs, args.only, args.silence * 60, budget, launcher)
    print(f"report: {root / study.name / 'report.md'}")
    if failed:
        sys.exit(f"error: {failed} runs failed; the report says why, and another call tries them again")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; call it again to continue from the last checkpoints")
