"""A checkpoint that a training has written."""

from pathlib import Path

from rekd_det.utils.read_as_data import load_plain


def saved(path: str | Path) -> dict:
    """Its content. torch alone would refuse the log's values in it."""
    return load_plain(path)
