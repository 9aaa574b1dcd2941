"""Algorithm, distiller, teacher, head adapters and losses; importing them registers them in MMRazor's ``MODELS``."""

from . import adapters, algorithms, backbones, distillers, losses, teachers

__all__ = ["adapters", "algorithms", "backbones", "distillers", "losses", "teachers"]
