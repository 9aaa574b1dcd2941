import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup_env(monkeypatch, tmp_path) -> ModuleType:
    """tools/setup_env.py, with an environment of its own that does not exist yet."""
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(module, "VENV_PYTHON", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setattr(module, "STAMP", str(tmp_path / ".venv/setup-stamp"))
    return module


def pins(version: str) -> dict[str, str]:
    """The pinned version of each package for one version of Python."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": version}):
            assert pin.name.lower() not in found, f"{pin.name} is pinned twice for {version}"
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            found[pin.name.lower()] = specifier.version
    return found


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_every_requirement_has_one_pin_within_its_range(version):
    pinned = pins(version)
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith("#"):
                requirement = Requirement(line)
                assert pinned[requirement.name.lower()] in requirement.specifier


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 13, 0)])
def test_another_python_is_refused(setup_env, monkeypatch, version):
    monkeypatch.setattr(setup_env.sys, "version_info", version)
    with pytest.raises(setup_env.SetupError, match=r"install Python 3.10.*PYTHON=python3.11 make"):
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


def test_a_second_call_does_nothing_until_a_pin_changes(setup_env, monkeypatch, tmp_path):
    commands = []

    def record(command, **kwargs):
        commands.append(command)
        if "venv" in command:
            Path(setup_env.VENV_PYTHON).parent.mkdir(parents=True)
            Path(setup_env.VENV_PYTHON).touch()
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(setup_env.subprocess, "run", record)
    monkeypatch.setattr(setup_env.subprocess, "call", lambda *a, **k: record(*a, **k).returncode)
    torch_version = setup_env.pin_of("torch").partition("==")[2]
    monkeypatch.setattr(setup_env.subprocess, "check_output", lambda *a, **k: torch_version)
    setup_env.main()
    assert any("-r" in command for command in commands)
    assert all("constraints.txt" in c for c in commands if "install" in c)

    commands.clear()
    setup_env.main()
    assert commands == []

    monkeypatch.setattr(setup_env, "INPUTS", (*setup_env.INPUTS, "Makefile"))
    assert not setup_env.is_up_to_date(setup_env.fingerprint())


def test_another_torch_is_named(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.subprocess, "call", lambda *a, **k: 0)
    monkeypatch.setattr(setup_env.subprocess, "check_output", lambda *a, **k: "1.13.1\n")
    wanted = setup_env.pin_of("torch")
    with pytest.raises(setup_env.SetupError, match=f"torch 1.13.1 is installed.*install {wanted}"):
        setup_env.check_environment()


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
        setup_env.pip("install", "torch")
