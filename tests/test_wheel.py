"""The built wheel holds what users call, and nothing that only serves the development."""

import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from commands import fail, run

ROOT = Path(__file__).resolve().parents[1]
#: what the build reads
SOURCES = ("setup.py", "requirements.txt", "requirements-dev.txt", "model-index.yml", "rekd_det", "configs", "tools")
#: programs of the wheel
TOOLS = {
    *("train.py", "test.py", "new_pair.py", "check_pair.py", "export_student.py", "make_shapes_coco.py"),
    *("_launch.sh", "dist_train.sh", "dist_test.sh", "slurm_train.sh", "slurm_test.sh"),
    *(f"analysis/{name}.py" for name in ("agreement", "browse", "compare_runs", "head_tail", "image_accuracy")),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy, because setuptools would also pack what an earlier build has left in ``build/``."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    for package in ("studies", "tests"):  # beside the package, as in the repository: no build may pick them up
        (source / package).mkdir()
        (source / package / "__init__.py").touch()
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", folder, source, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_the_package_the_configs_and_the_tools(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {str(p.relative_to(ROOT)) for p in (ROOT / "rekd_det").rglob("*.py") if ".mim" not in p.parts}
    configs = {p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*.py") if "demo" not in p.parts}
    wanted = (
        {f"tools/{name}" for name in TOOLS}
        | {str(p) for p in configs}
        | {"configs/metafile.yml", "configs/cls/metafile.yml"}
    )
    assert names == package | {f"rekd_det/.mim/{name}" for name in (*wanted, "model-index.yml")}


def test_the_wheels_launchers_can_be_executed(wheel):
    for name in ("dist_train.sh", "dist_test.sh", "slurm_train.sh", "slurm_test.sh"):
        mode = wheel.getinfo(f"rekd_det/.mim/tools/{name}").external_attr >> 16
        assert mode & 0o111, name


@pytest.mark.slow
def test_the_wheels_tools_take_its_configs(wheel, tmp_path):
    """Nothing of the repository is on the path: only what the wheel holds can be found."""
    wheel.extractall(tmp_path)
    mim = tmp_path / "rekd_det" / ".mim"
    train = (sys.executable, mim / "tools" / "train.py", mim / "configs" / "rekd_frcnn_r101_r18_coco.py")
    said = fail(*train, cwd=tmp_path, status=1, PYTHONPATH=str(tmp_path))
    assert re.search("^error: train_dataloader.dataset[.]", said, re.M)  # the data is not there
