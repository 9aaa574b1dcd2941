"""Build the distiller's losses on logits from their configs, with messages that name the config key."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS

from rekd_det.models.losses import OWN_NAMES, LogitLoss
from rekd_det.utils.options import check_options

#: the config keys of the losses on logits
LOSS, BOX_LOSS = "model.distiller.loss", "model.distiller.box_loss"


def build_loss_for_any_head(cfg: dict) -> LogitLoss:
    """The loss on classes without the head's activation.

    Raises:
        ValueError, TypeError: for a mistake that does not depend on the head.
    """
    try:
        return build_loss(cfg)
    except ValueError as error:
        if "activation" in cfg:
            raise
        try:  # some options are for sigmoids only
            return build_loss({**cfg, "activation": "sigmoid"})
        except ValueError:
            raise error from None


def build_box_loss(cfg: dict) -> LogitLoss:
    """The loss on the bins of a box's sides.

    Raises:
        ValueError, TypeError: for a mistake, or a loss that needs labels.
    """
    if not isinstance(cfg, dict):
        raise TypeError(f"{BOX_LOSS} must be a config dict, or None, got {type(cfg).__name__}")
    if cfg.get("activation", "softmax") != "softmax":
        raise ValueError(
            f"{BOX_LOSS}.activation={cfg['activation']!r}: the bins of a side are one distribution, a softmax. Leave "
            "the key out"
        )
    with about(BOX_LOSS):
        loss = build_loss({**cfg, "activation": "softmax"}, BOX_LOSS)
        if loss.needs_labels:
            raise ValueError(
                f"{type(loss).__name__} needs one label for each row, and the side of a box has none; KDLoss, "
                "GDKDLoss and ReKDLoss need no labels"
            )
    return loss


@contextmanager
def about(what: str) -> Iterator[None]:
    """Puts what a ValueError is about in front of its message, unless it says so itself."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(what):
            raise
        raise ValueError(f"{what}: {error}") from error


def build_loss(cfg: dict, key: str = LOSS) -> LogitLoss:
    """The loss that a config names, with or without its scope.

    Args:
        cfg: ``type`` and options of a :class:`rekd_det.models.losses.LogitLoss`.
        key: the config key that it stands under, for messages.

    Raises:
        ValueError, TypeError: for a mistake.
    """
    # The config's default scope is mmdet; a loss of this package must be found without 'mmrazor.' as well.
    with DefaultScope.overwrite_default_scope("mmrazor"):
        if isinstance(cfg.get("type"), str):
            name = cfg["type"].removeprefix("mmrazor.")
            cfg = {**cfg, "type": OWN_NAMES.get(name, cfg["type"])}
        kind = MODELS.get(cfg["type"]) if isinstance(cfg.get("type"), str) else cfg.get("type")
        if not (inspect.isclass(kind) and issubclass(kind, LogitLoss)):
            names = sorted(c.__name__ for c in _subclasses(LogitLoss))
            raise TypeError(
                f"{key}.type={cfg.get('type')!r} is not a loss on classification logits; "
                f"choose one of {', '.join(names)}, or register a subclass of rekd_det.models.losses.LogitLoss"
            )
        check_options(kind, cfg, key)
        loss = MODELS.build(cfg)
    if loss.reduction == "none":
        raise ValueError(f"{key}.reduction='none' gives no scalar to train on; use 'mean'")
    loss.check_backend()
    return loss


def _subclasses(cls: type) -> set[type]:
    direct: set[type] = set(cls.__subclasses__())
    return direct.union(*map(_subclasses, direct))
