"""ReKD for MMDetection. Importing it registers its components.

``configs/_base_/rekd.py`` does it for the configs that inherit it; others need
``custom_imports=dict(imports=['rekd_det'])``. A config that names ``rekd_det.ReKDDistill`` as its model's type or
``rekd_det.ReKDRunner`` as its Runner makes mmengine import it too.
"""

from rekd_det.utils import compat, versions

versions.check()
compat.apply()  # before anything imports mmrazor

from rekd_det import engine, evaluation, models, structures  # noqa: E402
from rekd_det.engine.runner import ReKDRunner  # noqa: E402
from rekd_det.models.algorithms import ReKDDistill  # noqa: E402
from rekd_det.version import __version__  # noqa: E402

__all__ = ["ReKDDistill", "ReKDRunner", "__version__", "engine", "evaluation", "models", "structures"]
