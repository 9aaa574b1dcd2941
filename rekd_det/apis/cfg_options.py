"""The option ``--cfg-options`` of the command lines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from mmengine.config import DictAction


class CfgOptions(DictAction):
    """mmengine's ``DictAction`` that keeps the blanks of a plain value (a path), and explains what it can't read.

    From lists and tuples blanks are removed, as ever.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add each KEY=VALUE to the dict of the namespace."""
        for pair in values or ():
            if "=" not in pair:
                raise argparse.ArgumentError(
                    self, f"'{pair}' is not KEY=VALUE: write it as model.distiller.loss.top_k=3, no blank at the ="
                )
            try:
                super().__call__(parser, namespace, [pair], option_string)  # type: ignore[arg-type]
            except (AssertionError, RecursionError):  # of '(1,2]', of '[f(1,2)]'
                raise argparse.ArgumentError(
                    self, f'\'{pair}\': the brackets do not match; write KEY="[a,b]" or KEY="[(a,b),(c,d)]"'
                ) from None

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        plain = val.strip("'\" ")
        if "," in plain or plain.startswith(("(", "[")):
            # how many brackets are open after each character
            depths = list(accumulate((char in "([") - (char in ")]") for char in plain))
            if min(depths) < 0 or depths[-1] != 0:
                raise AssertionError  # as mmengine's own check of brackets does
            if any(char == "," and depth == 0 for char, depth in zip(plain, depths, strict=True)):
                return DictAction._parse_iterable(f"[{plain}]")  # without these it never ends on '(1,2),(3,4)'
            if 0 not in depths[:-1]:
                return DictAction._parse_iterable(plain)
        return DictAction._parse_int_float_bool(plain)
