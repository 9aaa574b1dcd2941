"""Models of MMDetection's zoo by name: their config, their weights and the AP that their metafile reports."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import mmdet
import yaml

from rekd_det.utils.errors import InputError

#: the folder of configs that MMDetection's wheel carries
ZOO = Path(mmdet.__file__).parent / ".mim" / "configs"


@dataclass(frozen=True)
class ZooModel:
    """A config of the zoo, with what its metafile says of it.

    Args:
        path: relative to the zoo, ``'retinanet/retinanet_r50_fpn_1x_coco.py'``.
        weights: URL of its checkpoint; None where the metafile names none.
        metrics: AP in percent by the metafile's names, ``{'box AP': 36.5}``.
    """

    path: str
    weights: str | None = None
    metrics: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """The file's name, which is the model's."""
        return Path(self.path).stem

    def describe(self) -> str:
        """Name and AP in one line."""
        values = ", ".join(f"{name} {value:g}" for name, value in self.metrics)
        return f"{self.name} ({values})" if values else f"{self.name} (no AP in the metafile)"


def read_zoo() -> dict[str, ZooModel]:
    """All models of the zoo by name, those without weights included."""
    models = {}
    for file in sorted(ZOO.glob("*/*.py")):
        if not file.parent.name.startswith("_"):
            models[file.stem] = ZooModel(str(file.relative_to(ZOO)))
    for metafile in sorted(ZOO.glob("*/metafile.yml")):
        content = yaml.safe_load(metafile.read_text(encoding="utf-8"))
        for entry in content.get("Models", []) if isinstance(content, Mapping) else content:
            # Each config lies beside its metafile, which may name another folder, or encode it as in a URL (gn%2Bws).
            file = metafile.parent / Path(unquote(str(entry.get("Config", "")))).name
            if file.is_file():
                metrics = {k: v for r in entry.get("Results", []) for k, v in (r.get("Metrics") or {}).items()}
                models[file.stem] = ZooModel(str(file.relative_to(ZOO)), entry.get("Weights"), tuple(metrics.items()))
    return models


def find_zoo_model(name: str, zoo: Mapping[str, ZooModel], role: str) -> ZooModel:
    """The model of that name.

    Args:
        name: of a config file of the zoo, with or without its folder and '.py'.
        zoo: of :func:`read_zoo`.
        role: 'student' or 'teacher', for the message.

    Raises:
        InputError: there is none; the message names those that look most like it.
    """
    stem = Path(name.removeprefix("mmdet::")).name.removesuffix(".py")
    if stem in zoo:
        return zoo[stem]
    close = difflib.get_close_matches(stem, zoo, n=5, cutoff=0.5)
    if any(data in stem for data in ("_in1k", "_in21k", "_cifar")):
        hint = "it looks like an image classifier of MMPretrain's: for those copy a pair from configs/cls"
    elif close:
        hint = f"did you mean {', '.join(close)}?"
    else:
        hint = "see the config folders of MMDetection for the names"
    raise InputError(f"{role} '{name}': MMDetection's zoo has no model of this name, and there is no such file; {hint}")
