"""What the command lines of ``tools/analysis/`` that look at a pair share."""

from __future__ import annotations

import argparse

from mmengine.device import get_device

from rekd_det.apis.cfg_options import CfgOptions
from rekd_det.utils.errors import InputError

#: K where a pair's loss has none, or takes a share of the teacher's mass
DEFAULT_TOP_K = 5


def top_k_of(given: int | None, loss: object, num_logits: int) -> int:
    """How many categories a top-K set has: as the command line says, or the loss, or 5 where these leave a tail.

    Args:
        given: by the command line.
        loss: of the pair.
        num_logits: of its heads.

    Raises:
        InputError: if the command line leaves no tail.
    """
    if given is not None:
        if given >= num_logits:
            raise InputError(f"--top-k {given} leaves no tail: the head has {num_logits} logits per row")
        return given
    own = getattr(loss, "top_k", None)
    return own if isinstance(own, int) else max(1, min(DEFAULT_TOP_K, num_logits - 1))


def add_pair_arguments(parser: argparse.ArgumentParser, split: str, limit: int | None = None) -> None:
    """Add the pair's config, which of its images to look at, and on what device.

    Args:
        parser: gets them.
        split: default of ``--split``.
        limit: default of ``--limit``; None for all images.
    """
    parser.add_argument("config", help="config file of a distillation pair")
    parser.add_argument("--split", choices=["train", "val"], default=split, help="the images (never augmented)")
    parser.add_argument(
        "--limit", type=int, default=limit, metavar="N", help="look at N images, evenly spread over the data set"
    )
    parser.add_argument("--device", default=get_device())
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="as in tools/train.py")


def add_loader_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how images are loaded."""
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="processes that load images")


def check_counts(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """End the program with a message if one of these arguments is given and less than 1."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
