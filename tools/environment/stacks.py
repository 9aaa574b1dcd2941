"""The two stacks of OpenMMLab packages that rekd_det runs on."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stack:
    """One set of packages with the usual import names.

    Args:
        name: of ``make venv STACK=...``.
        requirements: file of ranges that rekd_det itself needs.
        constraints: file with the one tested version of each package.
        mmcv: the package that brings the module ``mmcv``.
        replaced: packages of the other stack's name that this stack brings under another one.
    """

    name: str
    requirements: str
    constraints: str
    mmcv: str
    replaced: dict[str, str] = field(default_factory=dict)


STACKS = {
    "openmmlab": Stack("openmmlab", "requirements.txt", "constraints.txt", "mmcv"),
    "onedl": Stack(
        "onedl",
        "requirements-onedl.txt",
        "constraints-onedl.txt",
        "onedl-mmcv",
        {"mmpretrain": "onedl-mmpretrain"},
    ),
}


def installed_stack() -> Stack:
    """The stack whose mmcv is installed in this environment.

    Raises:
        StopIteration: if neither is.
    """
    from importlib.metadata import packages_distributions  # Python 3.9, which the set-up refuses by name, lacks it

    mmcv = packages_distributions().get("mmcv", [])
    return next(stack for stack in STACKS.values() if stack.mmcv in mmcv)
