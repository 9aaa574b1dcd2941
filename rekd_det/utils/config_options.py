"""Options with dotted keys, as ``--cfg-options`` gives them and a teacher's ``cfg_options``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from rekd_det.utils.errors import InputError


def merge_into(cfg: Config, options: Mapping[str, Any], name: str, path: str) -> None:
    """Merge options into a config, in place.

    Args:
        cfg: the config.
        options: values by dotted key (``{'model.backbone.depth': 18}``).
        name: what gives the options, for error messages.
        path: where the config was read, likewise.

    Raises:
        InputError: if an option does not fit.
    """
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError) as error:
        raise InputError(f"{name} do not fit '{path}': {error}") from error
    except AttributeError as error:  # mmengine looks for keys in an element of a list, and in what has none
        keys = [key for key in options if any(part.isdigit() for part in key.split("."))] or options
        raise InputError(
            f"{name} {', '.join(keys)} can't be set in '{path}': after a number there must be a key of a dict, "
            "as in param_scheduler.0.KEY=VALUE. To replace an element of a list, give the whole list"
        ) from error
