"""Read a config: a file, or one of an installed package."""

import importlib.util

from mmengine.config import Config
from mmengine.hub import get_config

from rekd_det.utils.errors import InputError
from rekd_det.utils.named_classes import name_classes


def read_file(path: str) -> Config:
    """Read a config file. What mmengine's new style names by class has its name in a registry afterwards."""
    cfg = Config.fromfile(path)
    name_classes(cfg)
    return cfg


def package_config(path: str, name: str) -> Config:
    """Read a config of an installed package.

    Args:
        path: such as ``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'``.
        name: what names it, for error messages.

    Raises:
        InputError: if the package or the config is not there.
    """
    package = path.partition("::")[0]
    # mmengine would run `pip install` for a package that is not there.
    if not package.isidentifier() or importlib.util.find_spec(package) is None:
        raise InputError(f"{name} '{path}': no package `{package}` is installed")
    try:
        cfg = get_config(path)
    except (FileNotFoundError, ValueError, AssertionError) as error:
        raise InputError(
            f"{name} '{path}': package `{package}` has no such config "
            f"(expected e.g. 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')"
        ) from error
    name_classes(cfg)
    return cfg
