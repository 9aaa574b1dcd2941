"""Walk through a config, however its parts are nested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def config_nodes(config: object) -> Iterator[Any]:
    """Every mapping in a config, parents first; what a caller puts in one's place is walked through in its stead."""
    if isinstance(config, Mapping):
        yield config
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for part in config:
            yield from config_nodes(part)
