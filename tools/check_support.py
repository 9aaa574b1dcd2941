"""Check which detectors of MMDetection's zoo can be distilled, by distilling each at a tiny size.

Writes docs/support.md and docs/support.json. With the maintained forks of MMDetection and mmcv it writes only the
column `forks`. If something that worked before no longer does, or something new fails, it leaves them as they are and
exits with 1.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
warnings.simplefilter("ignore")

import torch  # noqa: E402
from environment.stacks import installed_stack  # noqa: E402
from support.isolated import Ended, run_isolated  # noqa: E402
from support.record import (  # noqa: E402
    FAIL,
    NOT_RUN,
    PASS,
    REFUSED,
    Record,
    fill_page,
    merge,
    read_records,
    regressions,
    write_records,
)
from support.zoo import ZooConfig, one_of_each, zoo_configs  # noqa: E402

import rekd_det  # noqa: E402, F401 - registers
from rekd_det.models.adapters.base import ADAPTERS, REFUSED_HEADS  # noqa: E402
from rekd_det.testing.check_detector import CheckFailed, Facts, NotRunnable, check_detector  # noqa: E402

#: why these detectors and heads are refused, beyond having no adapter
_REASONS = {head.__name__: why for head, why in REFUSED_HEADS.items()} | dict(
    Mask2FormerVideo="its head classifies tubes over the frames of a video",
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every config, not one per family and kind of head")
    parser.add_argument("--family", nargs="+", default=[], help="only these folders of the zoo, e.g. retinanet dino")
    parser.add_argument("--jobs", type=int, default=2, help="configs at a time (default: 2)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one config (default: 300)")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB for one config (default: 8)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of support.md and support.json")
    parser.add_argument("--accept", action="store_true", help="write the record in spite of regressions")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error("--jobs must be at least 1")
    return args


def check(config: ZooConfig) -> Facts:
    """In a process of its own."""
    torch.set_num_threads(1)
    if config.model is None:
        raise NotRunnable(config.error)
    return check_detector(config.model)


def record(config: ZooConfig, result: Facts | Exception) -> Record:
    """The verdict on a config, from what its check gave."""
    if isinstance(result, Facts):
        reason = f"attention: rows equal to {result.difference:.0e}" if result.difference else ""
        return Record(
            config.path, config.family, result.head, result.adapter, result.activation, result.rows, PASS, reason
        )
    head = next((k for k in config.kind[:2] if k in _REASONS), config.kind[1] if config.model else "")
    reason = " ".join(str(result).split())
    if head in _REASONS:
        return Record(config.path, config.family, head, verdict=REFUSED, reason=_REASONS[head])
    adapter = next((a.__name__ for h, a in ADAPTERS.items() if h.__name__ == head), "")
    if isinstance(result, NotRunnable):
        return Record(config.path, config.family, head, adapter, verdict=NOT_RUN, reason=f"plain MMDetection: {reason}")
    if isinstance(result, TypeError) and not adapter:
        return Record(config.path, config.family, head, verdict=REFUSED, reason=reason.partition(". Supported")[0])
    if not isinstance(result, (CheckFailed, Ended)):
        reason = f"{type(result).__name__}: {reason}"
    return Record(config.path, config.family, head, adapter, verdict=FAIL, reason=reason)


def main() -> int:
    args = parse_args()
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
    print("reading MMDetection's configs ...", flush=True)
    try:
        configs = zoo_configs(args.family)
        before = read_records(args.docs / "support.json")
        page = (args.docs / "support.md").read_text()
    except (OSError, ValueError) as error:
        print(f"check_support: {error}", file=sys.stderr)
        return 2
    if not args.all:
        configs = one_of_each(configs)
    forks = installed_stack().name == "onedl"
    records = []
    for config, result, seconds in run_isolated(check, configs, args.jobs, args.timeout, args.memory):
        line = record(config, result)
        records.append(line)
        print(
            f"[{len(records)}/{len(configs)}] {line.config}: {line.adapter or '-'} {line.activation or '-'} "
            f"{line.rows} rows, {seconds:.1f} s: {line.verdict} {line.reason}",
            flush=True,
        )
    worse = regressions(before, records, forks)
    counts = ", ".join(f"{sum(r.verdict == v for r in records)} {v}" for v in (PASS, FAIL, REFUSED, NOT_RUN))
    print(f"{len(records)} configs: {counts}")
    for line in worse:
        print(f"REGRESSION {line.config}: {line.verdict}: {line.reason}", file=sys.stderr)
    if args.accept or not worse:
        merged = merge(before, records, forks)
        (args.docs / "support.md").write_text(fill_page(page, merged))
        write_records(args.docs / "support.json", merged)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
