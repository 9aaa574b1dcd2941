import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# What users of an installed package call; mim looks for it in rekd_det/.mim, which links here.
# The demo, the benchmarks, the sweep over MMDetection's zoo and the other tools serve those who develop the package.
SHIPPED = (
    "model-index.yml",
    "configs/metafile.yml",
    "configs/*.py",
    "configs/_base_/*.py",
    "configs/cls/metafile.yml",
    "configs/cls/*.py",
    "configs/cls/_base_/*.py",
    *(f"tools/{name}.py" for name in ("train", "test", "new_pair", "check_pair", "export_student", "make_shapes_coco")),
    "tools/*.sh",
    "tools/analysis/*.py",
)


def read_version() -> str:
    match = re.search(r'__version__ = "([^"]+)"', (ROOT / "rekd_det/version.py").read_text("utf-8"))
    assert match is not None, "rekd_det/version.py defines no __version__"
    return match[1]


def read_requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="rekd_det",
    version=read_version(),
    description="Distil object detectors by their head and tail categories, on MMDetection",
    packages=find_packages(include=["rekd_det", "rekd_det.*"]),
    package_data={"rekd_det": [f".mim/{pattern}" for pattern in SHIPPED]},
    python_requires=">=3.10,<3.13",
    # tools/setup_env.py names the requirements of the maintained forks where it installs those.
    install_requires=read_requirements(os.environ.get("REKD_REQUIREMENTS", "requirements.txt")),
    extras_require={
        "cls": ["mmpretrain>=1.2.0,<1.3"],
        "dev": read_requirements("requirements-dev.txt"),
        "eval": ["faster-coco-eval>=1.6"],
    },
)
