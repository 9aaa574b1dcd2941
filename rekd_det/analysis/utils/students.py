"""What the tools share that compare trained students of one pair with their teacher, on the same images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mmengine.config import Config
from tqdm import tqdm

from rekd_det.analysis.utils.arguments import add_loader_arguments, add_pair_arguments, top_k_of
from rekd_det.analysis.utils.pair import (
    batches,
    build_images,
    build_pair,
    check_images,
    choose,
    quiet,
    seed_samplers,
)
from rekd_det.analysis.utils.tables import markdown, write_csv
from rekd_det.apis.preflight import check_work_dir


class Counter(Protocol):
    """Sums over rows."""

    def add(self, *rows: Any) -> None: ...


C = TypeVar("C", bound=Counter)


def add_student_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the pair, the trained students, K, and the file of the table."""
    add_pair_arguments(parser, split="val")
    parser.add_argument("checkpoints", nargs="+", metavar="STUDENT.pth", help="trained students, distilled or not")
    parser.add_argument("--top-k", type=int, metavar="K", help="size of the teacher's top-K set; default: the loss's")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="also write the table to this file")
    add_loader_arguments(parser)


def count_students(
    cfg: Config, args: argparse.Namespace, new: Callable[[int], C], rows: Callable[[Any, dict], Iterable[Sequence]]
) -> Iterator[tuple[str, C]]:
    """Count the rows of all images for one student after the other.

    Args:
        cfg: config of the pair.
        args: see :func:`add_student_arguments`.
        new: makes the sums of one student, given K.
        rows: gives, for the pair and a preprocessed batch, the arguments of each call of ``add``.

    Yields:
        The path of a student's checkpoint, and its sums.
    """
    check_images(cfg, args.split)
    if args.out:
        check_work_dir(str(args.out.parent), "--out")
    quiet()
    images = choose(build_images(cfg, args.split), args.limit)
    for checkpoint in args.checkpoints:
        model = build_pair(cfg, checkpoint, args.device)
        found = new(top_k_of(args.top_k, model.distiller.loss, model.distiller.adapter.num_logits))
        seed_samplers()
        with tqdm(total=len(images), unit="img", desc=Path(checkpoint).stem) as bar:
            for batch in batches(model, images, args.batch_size, args.workers):
                for entry in rows(model, batch):
                    found.add(*entry)
                bar.update(len(batch["data_samples"]))
        yield checkpoint, found


def show_students(table: Sequence[Mapping[str, object]], out: Path | None) -> None:
    """Print a row for each student, and write them to ``out`` if it is given; figures have four decimals."""
    header = list(table[0])
    lines = [[round(v, 4) if isinstance(v, float) else v for v in row.values()] for row in table]
    print("\n".join(markdown(header, [[str(cell) for cell in line] for line in lines])))
    if out:
        write_csv(out, header, lines)
