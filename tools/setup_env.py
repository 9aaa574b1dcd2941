"""Create `.venv` with the tested version of everything, and check that it works.

A second call does nothing, unless a requirement or a pin has changed. Run it as `make venv`, or
with the Python that the environment shall have: `python3.11 tools/setup_env.py`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "setup-stamp")
# A change of any of these makes the environment out of date.
INPUTS = (
    "requirements.txt",
    "requirements-dev.txt",
    "constraints.txt",
    "setup.py",
    "tools/setup_env.py",
)
BUILD_TOOLS = ["pip", "setuptools", "wheel", "ninja", "psutil"]
OURS = "{}.{}".format(*sys.version_info)
# Tested beside a CPU build of torch, which brings no triton. No line of constraints.txt: a CUDA build of torch insists
# on its own version.
TRITON = "triton==3.9.0"
STEPS = 6


class SetupError(Exception):
    """What is missing on this machine, and how to get it."""


def main():
    check_python()
    wanted = fingerprint()
    if is_up_to_date(wanted):
        return
    create_venv()
    say(2, "build tools")
    pip("install", "-q", *BUILD_TOOLS)
    say(3, "torch (the largest part: a CUDA build is some gigabytes)")
    pip("install", pin_of("torch"))
    say(4, "mmcv with its compiled operators")
    install_mmcv()
    say(5, "everything else")
    pip("install", "-r", "requirements.txt", "-r", "requirements-dev.txt", *triton_for_its_interpreter())
    pip("install", "-q", "--no-deps", "--no-build-isolation", "-e", ".")
    say(6, "check")
    check_environment()
    with open(STAMP, "w") as stamp:
        stamp.write(wanted)
    print("setup: .venv is ready")


def say(step, what):
    print(f"setup {step}/{STEPS}: {what}", flush=True)


def check_python():
    if not (3, 10) <= sys.version_info[:2] < (3, 13):
        raise SetupError(
            f"Python {OURS} is not supported: install Python 3.10, 3.11 (tested) or 3.12, and "
            "name it, e.g. `PYTHON=python3.11 make test`"
        )


def fingerprint():
    digest = hashlib.sha256(repr((ROOT, OURS)).encode())
    for name in INPUTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_up_to_date(wanted):
    try:
        with open(STAMP) as stamp:
            return stamp.read() == wanted and os.path.exists(VENV_PYTHON)
    except FileNotFoundError:
        return False


def create_venv():
    if os.path.exists(VENV_PYTHON):
        code = "import sys; print('{}.{}'.format(*sys.version_info))"
        found = subprocess.run([VENV_PYTHON, "-c", code], stdout=subprocess.PIPE, text=True)
        version = found.stdout.strip() or "a Python that does not start"
        if version != OURS:
            raise SetupError(
                f".venv has {version}, and this is Python {OURS}: remove .venv, or name the same Python with PYTHON=..."
            )
        say(1, "environment .venv is there; updating it")
        return
    say(1, f"environment .venv with Python {OURS}")
    result = subprocess.run(
        [sys.executable, "-m", "venv", VENV],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        print(result.stdout, file=sys.stderr)
        raise SetupError(
            f"this Python cannot create virtual environments: install its venv module (Debian and "
            f"Ubuntu: apt-get install python{OURS}-venv)"
        )


def pin_of(package):
    with open(os.path.join(ROOT, "constraints.txt")) as file:
        for line in file:
            if line.startswith(package + "=="):
                return line.strip()
    raise SetupError(f"constraints.txt has no line {package}==...")


def pip(*arguments):
    command = [VENV_PYTHON, "-m", "pip", *arguments]
    if arguments[0] == "install":
        command[4:4] = ["-c", "constraints.txt"]
    if subprocess.call(command, cwd=ROOT):
        raise SetupError(
            f"`pip {' '.join(arguments)}` failed; its last lines above say why. Without network, "
            "point PIP_FIND_LINKS at a folder with the wheels. Where a pinned version does not "
            "exist for this machine, change its line in constraints.txt within the range of "
            "requirements.txt"
        )


def triton_for_its_interpreter():
    """The requirement that lets the tests run the Triton kernels on a CPU, where torch has not brought it."""
    there = subprocess.call([VENV_PYTHON, "-c", "import triton"], stderr=subprocess.DEVNULL) == 0
    return [TRITON] if sys.platform == "linux" and not there else []


def install_mmcv():
    wheel = [VENV_PYTHON, "-m", "pip", "install", "-q", "-c", "constraints.txt"]
    ready = subprocess.run(
        [*wheel, "--only-binary", "mmcv", pin_of("mmcv")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if ready.returncode == 0:
        return
    check_compiler()
    print(
        "setup: no ready-made wheel of mmcv fits; compiling it (about 13 minutes on 2 cores, once: "
        "pip keeps the result)",
        flush=True,
    )
    log_path = os.path.join(VENV, "mmcv-build.log")
    environment = dict(os.environ, MMCV_WITH_OPS="1")
    # Debug symbols would make the library twenty times as large.
    environment["CFLAGS"] = (os.environ.get("CFLAGS", "") + " -g0").strip()
    with open(log_path, "w") as log:
        build = subprocess.Popen(
            [*wheel, "--no-build-isolation", pin_of("mmcv")],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        wait_visibly(build)
    if build.returncode:
        with open(log_path) as log:
            print(*log.readlines()[-20:], sep="", file=sys.stderr)
        raise SetupError(f"mmcv did not compile; all of the compiler's output is in {log_path}")


def check_compiler():
    candidates = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++"]
    if not any(shutil.which(name) for name in candidates):
        raise SetupError(
            "mmcv must be compiled here, and there is no C++ compiler: install one (Debian and "
            "Ubuntu: apt-get install build-essential; Fedora: dnf install gcc-c++), or point "
            "PIP_FIND_LINKS at a folder with a wheel of mmcv for this Python and torch"
        )
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        raise SetupError(
            "mmcv must be compiled here, and Python's headers are missing: install them (Debian "
            f"and Ubuntu: apt-get install python{OURS}-dev)"
        )


def wait_visibly(process, interval=30):
    start = time.monotonic()
    while True:
        try:
            process.wait(timeout=interval)
            return
        except subprocess.TimeoutExpired:
            minutes = (time.monotonic() - start) / 60
            print(f"setup: still compiling mmcv, {minutes:.1f} minutes so far", flush=True)


def check_environment():
    pip("check")
    for module, hint in (
        ("torch", "remove .venv and run this again"),
        ("mmcv.ops", "mmcv was built for another torch: pip cache remove mmcv, remove .venv"),
        ("rekd_det", "the message above names the package at fault"),
    ):
        if subprocess.call([VENV_PYTHON, "-W", "ignore", "-c", "import " + module], cwd=ROOT):
            raise SetupError(f"`import {module}` fails in .venv ({hint})")
    code = "import torch; print(torch.__version__.split('+')[0])"
    found = subprocess.check_output([VENV_PYTHON, "-c", code], text=True).strip()
    wanted = pin_of("torch").partition("==")[2]
    if found != wanted:
        raise SetupError(
            f"torch {found} is installed, but {wanted} is the tested one: run "
            f"`.venv/bin/python -m pip install torch=={wanted}`, or write the other version into "
            "constraints.txt"
        )


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"setup: error: {error}")
