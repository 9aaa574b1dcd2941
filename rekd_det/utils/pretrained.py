"""The names of pre-trained weights in a model config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekd_det.utils.config_nodes import config_nodes
from rekd_det.utils.config_types import type_name


def drop_pretrained(config: object) -> set[str]:
    """Remove the names of pre-trained weights from a model config, in place, so that building it reads no file.

    Args:
        config: with ``init_cfg`` (one or a list) and the older ``pretrained`` anywhere in it.

    Returns:
        The names; of ``pretrained=True`` the type that would load its own.
    """
    dropped: set[str] = set()
    for node in config_nodes(config):
        pretrained, init = node.get("pretrained"), node.get("init_cfg")
        if isinstance(pretrained, str):
            dropped.add(pretrained)
            node["pretrained"] = None
        elif pretrained is True:
            dropped.add(f"{type_name(node.get('type'))}'s own weights")
            node["pretrained"] = False
        if _is_pretrained(init):
            dropped.add(str(init.get("checkpoint")))
            node["init_cfg"] = None
        elif isinstance(init, (list, tuple)):
            dropped.update(str(part.get("checkpoint")) for part in init if _is_pretrained(part))
            node["init_cfg"] = [part for part in init if not _is_pretrained(part)]
    return dropped


def _is_pretrained(init: Any) -> bool:
    return isinstance(init, Mapping) and type_name(init.get("type")) in ("Pretrained", "PretrainedInit")
