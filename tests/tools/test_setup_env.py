"""tools/setup_env.py: what it installs, in which order, and what it says where something is missing.

PyTorch's index and a GPU can't be had in a test: programs that stand in for Python, pip and nvcc write down what they
were asked.
"""

import json
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from environment.cuda_toolkit import (
    SetupError,
    Toolkit,
    build_environment,
    check_toolkit,
    find_toolkit,
    missing_headers,
)
from environment.stacks import STACKS
from fast_cases import fast_if
from load_tool import load_tool
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
STACK = STACKS["openmmlab"]
CPU = dict(version="2.13.0+cpu", cuda=None, gpus=[], include="")


@pytest.fixture
def setup_env(monkeypatch, tmp_path) -> ModuleType:
    """tools/setup_env.py, with an environment of its own that does not exist yet."""
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))  # whatever runs the tests
    module = load_tool(ROOT / "tools" / "setup_env.py")
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(module, "VENV_PYTHON", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setattr(module, "STAMP", str(tmp_path / ".venv/setup-stamp"))
    return module


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


#: Python of an environment in which pip installs nothing, and mmcv is whatever the file `mmcv` beside it says
PYTHON = r"""#!{python}
import json, os, sys
from pathlib import Path
here, words = Path(__file__).parent, sys.argv[1:]
names = ("CPATH", "FORCE_CUDA", "MMCV_WITH_OPS", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "REKD_REQUIREMENTS")
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps([words, {{k: os.environ[k] for k in names if k in os.environ}}]) + "\n")
text = " ".join(words)
mmcv = here / "mmcv"
if "torch.version.cuda" in text:
    print((here / "torch").read_text())
elif "get_compiling_cuda_version" in text:
    if not mmcv.exists():
        sys.exit(1)
    print(mmcv.read_text())
elif "sys.version_info" in text:
    print("{version}")
elif "pip cache list" in text:
    print("mmcv-2.1.0-cp311-cp311-linux_x86_64.whl" if (here / "kept").exists() else "No locally built wheels cached.")
elif "pip cache remove" in text:
    (here / "kept").unlink()
elif "pip uninstall" in text:
    mmcv.unlink(missing_ok=True)
elif "--only-binary" in text and "mmcv==" in text:
    if not (here / "wheel").exists():
        sys.exit(1)
    mmcv.write_text((here / "wheel").read_text())
elif "--no-binary" in text:
    mmcv.write_text((here / "kept").read_text() if (here / "kept").exists() else (here / "built").read_text())
"""


class Machine:
    """A machine with a finished empty environment.

    Args:
        folder: of the environment's Python.
        torch: the torch that pip would install.
        built: CUDA version of the mmcv that a compilation gives here; ``wheel``: of one that lies ready; ``kept``: of
            one in pip's cache. 'not available' is mmcv's word for none.
    """

    def __init__(self, folder: Path, torch=CPU, built="not available", wheel=None, kept=None):
        self.folder = folder
        program(folder / "python", PYTHON.format(python=sys.executable, version="{}.{}".format(*sys.version_info)))
        (folder / "torch").write_text(json.dumps(torch))
        for name, value in dict(built=built, wheel=wheel, kept=kept).items():
            if value is not None:
                (folder / name).write_text(value)

    def calls(self) -> list[tuple[str, dict]]:
        path = self.folder / "calls.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return [(" ".join(words), environment) for words, environment in found]

    def compiled(self) -> list[dict]:
        """The environments of the calls that compile mmcv, or take what pip has kept."""
        return [environment for words, environment in self.calls() if "--no-binary" in words]


def cuda(version="12.8", gpus=()):
    return dict(version=f"2.13.0+cu{version.replace('.', '')}", cuda=version, gpus=list(gpus), include="")


def toolkit(
    folder: Path, release: str, headers=("cuda_runtime.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h")
) -> Path:
    program(folder / "bin" / "nvcc", f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    (folder / "include").mkdir(exist_ok=True)
    for name in headers:
        (folder / "include" / name).touch()
    return folder


@pytest.fixture
def machine(setup_env, tmp_path, monkeypatch):
    for name in ("CPATH", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "FORCE_CUDA", "MMCV_WITH_OPS"):
        monkeypatch.delenv(name, raising=False)
    return lambda **given: Machine(tmp_path / ".venv/bin", **given)


def own_lines(lines) -> list[str]:
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def pins() -> dict[str, str]:
    """The pinned version of each package."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        assert pin.name.lower() not in found, f"{pin.name} is pinned twice"
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        found[pin.name.lower()] = specifier.version
    return found


@pytest.mark.parametrize("stack", STACKS.values(), ids=lambda s: s.name)
def test_every_requirement_has_one_pin_within_its_range(stack):
    pinned = pins()
    if stack.constraints != "constraints.txt":
        lines = (ROOT / stack.constraints).read_text().splitlines()
        assert "-c constraints.txt" in lines
        pinned |= {p.name.lower(): next(iter(p.specifier)).version for p in map(Requirement, own_lines(lines))}
    for name in (stack.requirements, "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith("#"):
                requirement = Requirement(line)
                assert pinned[requirement.name.lower()] in requirement.specifier


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 13, 0)])
def test_another_python_is_refused(setup_env, monkeypatch, version):
    monkeypatch.setattr(setup_env.sys, "version_info", version)
    with pytest.raises(setup_env.SetupError, match=r"install Python 3.11 or 3.12.*PYTHON=python3.11 make"):
        setup_env.check_python()


def test_a_missing_compiler_is_named(setup_env, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(setup_env.SetupError, match=r"no C\+\+ compiler: install one.*PIP_FIND_LINKS"):
        setup_env.check_compiler()


def test_missing_headers_are_named(setup_env, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(setup_env.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(setup_env.SetupError, match=r"Python's headers are missing.*-dev"):
        setup_env.check_compiler()


def test_both_stacks_need_the_same_beside_their_own_packages():
    # NumPy 2 and OpenCV 5 were run with OpenMMLab's packages only.
    own = ("mmengine", "mmcv", "mmdet", "onedl", "numpy", "opencv-python")

    def others(name):
        needed = map(Requirement, own_lines((ROOT / name).read_text().splitlines()))
        return {str(r) for r in needed if not r.name.startswith(own)}

    assert others("requirements-onedl.txt") == others("requirements.txt")


def test_a_second_call_does_nothing_until_a_pin_changes(setup_env, machine, monkeypatch):
    here = machine()
    setup_env.main([])
    installs = [words for words, _ in here.calls() if "pip install" in words]
    assert any("-r requirements.txt" in words for words in installs)
    assert all("-c constraints.txt" in words for words in installs)

    setup_env.main([])
    assert here.calls() == []

    monkeypatch.setattr(setup_env, "INPUTS", (*setup_env.INPUTS, "Makefile"))
    setup_env.main([])
    assert here.calls()


def test_a_set_up_that_failed_is_not_taken_for_the_one_before(setup_env, machine, monkeypatch):
    here = machine()
    setup_env.main([])
    with monkeypatch.context() as broken:
        broken.setattr(setup_env, "install_mmcv", lambda *_: (_ for _ in ()).throw(setup_env.SetupError("no compiler")))
        with pytest.raises(setup_env.SetupError, match="no compiler"):
            setup_env.main(["--torch", "cpu"])
    here.calls()
    setup_env.main([])  # as `make test` does
    assert any("download.pytorch.org/whl/cpu" in words for words, _ in here.calls())


def test_the_default_says_which_torch_it_took(setup_env, machine, capsys):
    here = machine()
    setup_env.main([])
    said = capsys.readouterr().out
    assert "setup: torch 2.13.0+cpu, a CPU build" in said
    assert "make venv TORCH=... (cu126, cu128, cu130)" in said
    assert not any("--extra-index-url" in words for words, _ in here.calls())


@pytest.mark.parametrize("build", fast_if(["cu128"], ["cpu", "cu126", "cu128", "cu130"]))
def test_a_build_of_torch_is_taken_from_its_own_index(setup_env, machine, tmp_path, monkeypatch, build):
    version = build.removeprefix("cu")
    release = f"{version[:2]}.{version[2:]}"
    torch = CPU if build == "cpu" else cuda(release)
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", release)))
    here = machine(torch=torch, built="not available" if build == "cpu" else release)
    setup_env.main(["--torch", build])
    (words,) = [words for words, _ in here.calls() if "install" in words and "torch==" in words]
    pin = setup_env.pin_of(STACK, "torch")
    assert words.endswith(f"{pin}+{build} --extra-index-url https://download.pytorch.org/whl/{build}")
    # `make test` names no build and keeps this one; naming another one sets it up.
    setup_env.main([])
    assert here.calls() == []
    setup_env.main(["--torch", "cpu" if build != "cpu" else "cu128"])
    assert here.calls()


def test_mmcv_gets_cuda_operators_where_torch_has_cuda(setup_env, machine, tmp_path, monkeypatch):
    home = str(toolkit(tmp_path / "cuda", "12.8"))
    monkeypatch.setenv("CUDA_HOME", home)
    here = machine(torch=cuda("12.8"), built="12.8")
    setup_env.install_mmcv(STACK, cuda("12.8"))
    (environment,) = here.compiled()
    headers = Path(environment.pop("CPATH"))
    assert "ATen/cuda/Atomic.cuh" in (headers / "THC/THCAtomics.cuh").read_text()  # this torch has no headers at all
    assert environment == {
        "FORCE_CUDA": "1",
        "MMCV_WITH_OPS": "1",
        "CUDA_HOME": home,
        "TORCH_CUDA_ARCH_LIST": "7.0 7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX",
    }


def test_a_cpu_build_of_torch_gets_no_cuda(setup_env, machine):
    here = machine()
    setup_env.install_mmcv(STACK, CPU)
    assert here.compiled() == [{"MMCV_WITH_OPS": "1"}]


@pytest.mark.parametrize("ready", ["wheel", "kept"])
def test_an_mmcv_without_cuda_is_not_given_to_a_cuda_torch(setup_env, machine, tmp_path, monkeypatch, ready):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", "13.0")))
    here = machine(torch=cuda("13.0"), built="13.0", **{ready: "not available"})
    setup_env.install_mmcv(STACK, cuda("13.0"))
    assert (here.folder / "mmcv").read_text() == "13.0"
    assert here.compiled()[-1]["FORCE_CUDA"] == "1"


@pytest.mark.parametrize("ready", ["wheel", "kept"])
def test_an_mmcv_that_fits_is_not_compiled_again(setup_env, machine, ready):
    # There is no nvcc: a compilation would be refused.
    machine(torch=cuda("13.0"), **{ready: "13.0"})
    setup_env.install_mmcv(STACK, cuda("13.0"))


def test_the_flags_are_for_the_gpus_in_sight_or_as_told(tmp_path):
    found = Toolkit("/cuda", (13, 0))
    assert build_environment(found, [(9, 0), (8, 0), (9, 0)], {})["TORCH_CUDA_ARCH_LIST"] == "8.0 9.0"
    told = {"TORCH_CUDA_ARCH_LIST": "8.6"}
    assert build_environment(found, [(9, 0)], told)["TORCH_CUDA_ARCH_LIST"] == "8.6"
    assert "7.0" not in build_environment(found, [], {})["TORCH_CUDA_ARCH_LIST"]  # CUDA 13 has no Volta
    assert "10.0" not in build_environment(Toolkit("/cuda", (12, 6)), [], {})["TORCH_CUDA_ARCH_LIST"]


def test_what_is_wrong_with_nvcc_is_said_before_anything_is_compiled(setup_env, machine, tmp_path, monkeypatch):
    here = machine(torch=cuda("12.8"))
    cases = {
        "nvcc, which is not here: install the CUDA 12.8 toolkit.*cuda-toolkit-12-8": tmp_path / "none",
        "built for CUDA 12.8, and the nvcc in .* is of CUDA 13.0; .*Or take the PyTorch that fits this nvcc": toolkit(
            tmp_path / "other", "13.0"
        ),
        "has no cublas_v2.h, cusolverDn.h in its include": toolkit(
            tmp_path / "bare", "12.6", ("cuda_runtime.h", "cusparse.h")
        ),
    }
    for message, home in cases.items():
        monkeypatch.setenv("CUDA_HOME", str(home))
        with pytest.raises(SetupError, match=message):
            setup_env.install_mmcv(STACK, cuda("12.8"))
    assert here.compiled() == []


def test_headers_that_torch_has_are_not_replaced(tmp_path):
    (tmp_path / "torch/THC").mkdir(parents=True)
    (tmp_path / "torch/THC/THCAtomics.cuh").touch()
    assert missing_headers(str(tmp_path / "torch"), str(tmp_path / "ours")) == {}
    assert not (tmp_path / "ours").exists()


def test_another_minor_version_of_nvcc_will_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path, "12.4")))
    assert check_toolkit("12.8").version == (12, 4)


def test_a_script_in_place_of_nvcc_does_not_hide_the_toolkit(tmp_path):
    home = toolkit(tmp_path / "cuda", "13.0")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").symlink_to(home / "bin" / "nvcc")
    found = find_toolkit({"PATH": str(tmp_path / "bin")})
    assert found is not None and Path(found.home, "include/cuda_runtime.h").exists()


def test_a_stack_of_forks_brings_its_own_packages(setup_env, machine):
    here = machine()
    setup_env.main(["--stack", "onedl"])
    calls = here.calls()
    (everything,) = [words for words, _ in calls if "-r requirements-onedl.txt" in words]
    assert "onedl-mmpretrain" in everything and " mmpretrain" not in everything
    assert any("onedl-mmcv==" in words for words, _ in calls)
    assert any(environment.get("REKD_REQUIREMENTS") == "requirements-onedl.txt" for _, environment in calls)
    setup_env.main([])  # keeps the stack
    assert here.calls() == []
    with pytest.raises(SetupError, match=r"\.venv holds the stack onedl.*make clean"):
        setup_env.main(["--stack", "openmmlab"])


def test_operators_are_run_where_a_gpu_is_in_sight(setup_env, machine, capsys):
    here = machine(torch=cuda("13.0", [(9, 0)]))
    setup_env.check_environment(STACK, cuda("13.0", [(9, 0)]))
    assert any("roi_align(image.cuda()" in words and "nms(boxes.cuda()" in words for words, _ in here.calls())
    assert "RoIAlign and NMS give the same on the GPU as on the CPU" in capsys.readouterr().out
    setup_env.check_environment(STACK, cuda("13.0"))
    assert not any("cuda()" in words for words, _ in here.calls())


def test_another_torch_is_named(setup_env, machine):
    machine()
    wanted = setup_env.pin_of(STACK, "torch")
    with pytest.raises(setup_env.SetupError, match=f"torch 1.13.1 is installed.*install {wanted}"):
        setup_env.check_environment(STACK, dict(version="1.13.1", cuda=None, gpus=[], include=""))


def test_an_environment_of_another_python_is_named(setup_env, monkeypatch):
    Path(setup_env.VENV_PYTHON).parent.mkdir(parents=True)
    Path(setup_env.VENV_PYTHON).touch()
    answer = subprocess.CompletedProcess([], 0, stdout="3.8\n")
    monkeypatch.setattr(setup_env.subprocess, "run", lambda *a, **k: answer)
    with pytest.raises(setup_env.SetupError, match=r".venv has 3.8.*remove .venv"):
        setup_env.create_venv()


def test_a_failed_installation_says_what_to_do(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.subprocess, "call", lambda *a, **k: 1)
    with pytest.raises(setup_env.SetupError, match=r"`pip install torch` failed.*PIP_FIND_LINKS"):
        setup_env.pip(STACK, "install", "torch")
