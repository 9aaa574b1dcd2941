"""ReKD for MMDetection. Importing it registers its components: ``custom_imports=dict(imports=['rekd_det'])``."""

from . import _compat

_compat.apply()  # before anything imports mmrazor

from . import adapters, algorithm, amp, distiller, evaluation, hooks, losses, runner  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ["__version__", "adapters", "algorithm", "amp", "distiller", "evaluation", "hooks", "losses", "runner"]
