"""Algorithm, distiller, teacher, head adapters and losses; importing them registers them in MMRazor's ``MODELS``."""

from . import adapters, algorithms, distillers, losses, teachers

__all__ = ["adapters", "algorithms", "distillers", "losses", "teachers"]
