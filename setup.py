import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


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
    # .mim links to configs, tools and the model index: mim and `rekd_det::CONFIG` look for them there.
    package_data={"rekd_det": [".mim/model-index.yml", ".mim/configs/**/*", ".mim/tools/**/*"]},
    python_requires=">=3.10,<3.13",
    install_requires=read_requirements("requirements.txt"),
    extras_require={"dev": read_requirements("requirements-dev.txt"), "eval": ["faster-coco-eval>=1.6"]},
)
