"""ReKD for MMDetection. Importing it registers its components: ``custom_imports=dict(imports=['rekd_det'])``."""

from rekd_det.utils import compat

compat.apply()  # before anything imports mmrazor

from rekd_det import engine, evaluation, models, structures  # noqa: E402
from rekd_det.version import __version__  # noqa: E402

__all__ = ["__version__", "engine", "evaluation", "models", "structures"]
