"""The modules that a config has imported, by its key ``custom_imports``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def custom_imports(cfg: Mapping) -> list[str]:
    """Their names; mmengine takes one name without a list as well."""
    names = (cfg.get("custom_imports") or {}).get("imports") or []
    return [names] if isinstance(names, str) else list(names)


def import_rekd_det(cfg: Any) -> None:
    """Let a config import this package, which registers what the config names of it."""
    names = custom_imports(cfg)
    if "rekd_det" not in names:
        cfg["custom_imports"] = {**(cfg.get("custom_imports") or {}), "imports": [*names, "rekd_det"]}
