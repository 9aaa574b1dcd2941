"""Log which keys of the config differ from the checkpoint's on resume, and which value is used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmengine.config import Config

from rekd_det.engine.utils import RUNNER_KEYS
from rekd_det.utils.config_text import parse_config_text
from rekd_det.utils.errors import InputError

# What the Runner restores from a checkpoint whatever the config says: the options of the optimizer's groups, the state
# of the schedules, the seed.
_RESTORED = re.compile(
    r"randomness\.seed|auto_scale_lr\..*"
    r"|optim_wrapper\.(.+\.)?(optimizer\.(?!type$).*|paramwise_cfg(\..*)?)"
    r"|param_scheduler\.(.+\.)?(?!type$)[^.]+"
)
# Where a training starts and what started it. They differ in nearly every resume, and change nothing in it.
_OF_THE_START = {"work_dir", "load_from", "resume", "launcher", "experiment_name"}
_MOST = 40
_ABSENT = "(not set)"


class Change(NamedTuple):
    """One key that differs: its dotted name, both values as text, and whether the checkpoint's is used."""

    key: str
    old: str
    new: str
    restored: bool


def describe_changes(meta: Mapping, cfg: Mapping) -> str | None:
    """A text for the log about what differs between a checkpoint's config and the present one.

    Args:
        meta: the checkpoint's; mmengine keeps the config in it as text. It is parsed, never run.
        cfg: the config to resume with, as the user gave it.

    Returns:
        None if nothing differs.
    """
    if not isinstance(meta.get("cfg"), str):
        return "The checkpoint holds no config, so it is unknown what has changed since it was written."
    try:
        old = parse_config_text(meta["cfg"], "the checkpoint")
    except InputError as error:
        return f"It is unknown what has changed in the config since the checkpoint was written: {error}"
    changes = list(compare(old, cfg, meta.get("seed")))
    if not changes:
        return None
    lines = [f"The config differs from the checkpoint's in {len(changes)} key(s); these values apply:"]
    for key, before, after, restored in changes[:_MOST]:
        used_value = f"{before}, the checkpoint's" if restored else f"{after}, the config's"
        lines.append(f"  {key}: was {before}, is {after}; used: {used_value}")
    if len(changes) > _MOST:
        lines.append(f"  ... and {len(changes) - _MOST} more")
    if any(change.restored for change in changes):
        lines.append(
            "  (A resume restores the optimizer's options, the schedules and the seed. To continue with other ones, "
            "start from the checkpoint: --cfg-options load_from=CHECKPOINT, without --resume.)"
        )
    return "\n".join(lines)


def compare(old: Mapping, new: Mapping, seed: int | None = None) -> Iterator[Change]:
    """The keys that the Runner reads and whose values differ.

    Args:
        old: the checkpoint's config.
        new: the present one.
        seed: the checkpoint's; a config that leaves the seed open takes it over.
    """
    before, after = dict(_flat(_plain(old), "")), dict(_flat(_plain(new), ""))
    before["randomness.seed"] = seed
    if after.get("randomness.seed") is None:
        after["randomness.seed"] = seed
    for key in sorted({*before, *after}):
        top = key.partition(".")[0]
        if top not in RUNNER_KEYS - _OF_THE_START or before.get(key, _ABSENT) == after.get(key, _ABSENT):
            continue
        was, now = (repr(values[key]) if key in values else _ABSENT for values in (before, after))
        yield Change(key, was, now, restored=_RESTORED.fullmatch(key) is not None)


def _plain(value: Any) -> Any:
    """A value without the types that a config's text does not keep."""
    if isinstance(value, Config):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    entries: Any = None
    if isinstance(value, dict) and value:
        entries = value.items()
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        entries = enumerate(value)
    if entries is None:
        yield key, value
        return
    for name, inner in entries:
        yield from _flat(inner, f"{key}.{name}" if key else str(name))
