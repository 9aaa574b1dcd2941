"""Write docs/reference.md, the configuration reference, from the docstrings of the registered components."""

import argparse
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import rekd_det
from rekd_det.engine.runner.rekd_runner import ReKDRunner
from rekd_det.evaluation.faster_coco_metric import FasterCocoMetric
from rekd_det.models import adapters
from rekd_det.models.losses import (
    BCKDLoss,
    DISTLoss,
    DKDLoss,
    FeatureLoss,
    GDKDLoss,
    KDLoss,
    LogitLoss,
    NTIDLoss,
    ReKDLoss,
    TISDLoss,
)
from rekd_det.models.teachers.lean import LeanOptions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
HEADER = """# Configuration reference

`tools/make_reference.py` writes this page from the docstrings; do not edit it. Models, losses and hooks are in
MMRazor's registry: write `mmrazor.ReKDLoss` and so on.
"""


def components() -> dict[str, list]:
    """The classes that a config can name, by section."""
    from mmengine.hooks import Hook

    hooks = [c for c in vars(rekd_det.engine.hooks).values() if inspect.isclass(c) and issubclass(c, Hook)]
    ours = sorted((c for c in hooks if c.__module__.startswith("rekd_det")), key=lambda c: c.__name__)
    return {
        "The model": [
            rekd_det.models.algorithms.ReKDDistill,
            rekd_det.models.distillers.ReKDDistiller,
            LeanOptions,
        ],
        "Losses": [LogitLoss, ReKDLoss, TISDLoss, NTIDLoss, KDLoss, DKDLoss, GDKDLoss, BCKDLoss, DISTLoss, FeatureLoss],
        "Backbones": [vars(rekd_det.models.backbones)[name] for name in rekd_det.models.backbones.__all__],
        "Runner": [ReKDRunner],
        "Hooks": ours,
        "Evaluation": [FasterCocoMetric],
        "Optimizer": [rekd_det.engine.optimizers.BF16OptimWrapper],
        "For authors of adapters": [adapters.HeadAdapter],
    }


def entry(cls: Any) -> str:
    """One class: its call with defaults, and its docstring."""
    parameters = inspect.signature(cls).parameters.values()
    call = ", ".join(str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters)
    text = inspect.getdoc(cls) or ""
    text = re.sub(r":(?:class|func|meth|mod):`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    text = re.sub(r"^(Args|Raises|Returns|Attributes):$", r"**\1**\n", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\*{0,2}[\w, *]+?):(?= |\n)", r"* `\1`:", text, flags=re.MULTILINE)
    text = re.sub(r"^ {8}(?=\S)", "  ", text, flags=re.MULTILINE)
    return f"### {cls.__name__}\n\n`{cls.__name__}({call})`\n\n{text}\n"


def page() -> str:
    """The whole document."""
    parts = [HEADER]
    for title, classes in components().items():
        parts += [f"## {title}\n", *(entry(c) for c in classes)]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text() != page():
            sys.exit(f"{PAGE.name} is out of date: run python tools/make_reference.py")
        return
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
