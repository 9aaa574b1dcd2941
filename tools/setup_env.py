"""Create `.venv` with the tested version of everything, and check that it works.

A second call does nothing, unless a requirement or a pin has changed. Run it as `make venv`, or
with the Python that the environment should use: `python3.11 tools/setup_env.py`.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time

from environment.cuda_toolkit import SetupError, build_environment, check_toolkit, missing_headers
from environment.stacks import STACKS

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "setup-stamp")
# A change of any of these makes the environment out of date.
INPUTS = (
    "requirements-dev.txt",
    "constraints.txt",
    "setup.py",
    "tools/setup_env.py",
    "tools/environment/cuda_toolkit.py",
    "tools/environment/stacks.py",
)
#: builds of PyTorch in its own index
TORCH_BUILDS = ("cpu", "cu126", "cu128", "cu130")
TORCH_INDEX = "https://download.pytorch.org/whl/"
BUILD_TOOLS = ["pip", "setuptools", "wheel", "ninja", "psutil"]
OURS = "{}.{}".format(*sys.version_info)
# Tested with a CPU build of torch, which has no triton. Not in constraints.txt, because a CUDA build of torch requires
# its own version.
TRITON = "triton==3.9.0"
STEPS = 6
# One call of each operator that detectors need, against the CPU's.
CUDA_CHECK = """
import torch
from mmcv.ops import nms, roi_align
torch.manual_seed(0)
image, corner = torch.randn(1, 4, 32, 32), torch.rand(50, 2) * 20
boxes, scores = torch.cat([corner, corner + 4 + torch.rand(50, 2) * 8], 1), torch.rand(50)
rois = torch.cat([torch.zeros(50, 1), boxes], 1)
pooled = roi_align(image.cuda(), rois.cuda(), 7).cpu()
torch.testing.assert_close(pooled, roi_align(image, rois, 7), rtol=1e-4, atol=1e-4)
assert torch.equal(nms(boxes.cuda(), scores.cuda(), 0.5)[1].cpu(), nms(boxes, scores, 0.5)[1])
"""


def main(arguments=None):
    args = parse_args(arguments)
    check_python()
    before = read_stamp()
    stack = STACKS[args.stack or before.get("stack") or "openmmlab"]
    build = args.torch or before.get("torch")
    if before.get("stack", stack.name) != stack.name:
        raise SetupError(
            f".venv holds the stack {before['stack']}, whose packages have the same module names as those of "
            f"{stack.name}: run `make clean` first"
        )
    wanted = dict(inputs=fingerprint(stack), stack=stack.name, torch=build)
    if before == wanted and os.path.exists(VENV_PYTHON):
        return
    create_venv()
    write_stamp(dict(wanted, inputs=None))  # what was finished before is no longer, until the end
    say(2, "build tools")
    pip(stack, "install", "-q", *BUILD_TOOLS)
    say(3, "torch (the largest part: a CUDA build is some gigabytes)")
    pip(stack, "install", *torch_arguments(stack, build))
    torch = ask_torch()
    print(f"setup: torch {torch['version']}, {describe(torch)}", flush=True)
    if build is None and torch["cuda"] is None:
        print(f"setup: for a GPU, name a CUDA build: make venv TORCH=... ({', '.join(TORCH_BUILDS[1:])})", flush=True)
    say(4, "mmcv with its compiled operators")
    install_mmcv(stack, torch)
    say(5, "everything else")
    pip(stack, "install", "-r", stack.requirements, *dev_requirements(stack), *triton_for_its_interpreter())
    environment = dict(os.environ, REKD_REQUIREMENTS=stack.requirements)
    pip(stack, "install", "-q", "--no-deps", "--no-build-isolation", "-e", ".", env=environment)
    say(6, "check")
    check_environment(stack, torch)
    write_stamp(wanted)
    print("setup: .venv is ready")


def write_stamp(content):
    with open(STAMP, "w") as stamp:
        json.dump(content, stamp)


def parse_args(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--torch",
        choices=TORCH_BUILDS,
        help="take this build of PyTorch, from its own index; by default what pip finds, or what .venv has",
    )
    parser.add_argument(
        "--stack",
        choices=STACKS,
        help="openmmlab: mmdet 3.3 and mmcv 2.1; onedl: the maintained forks of both. By default the first, or what "
        ".venv has",
    )
    return parser.parse_args(arguments)


def say(step, what):
    print(f"setup {step}/{STEPS}: {what}", flush=True)


def check_python():
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        raise SetupError(
            f"the pinned packages were not tested on Python {OURS}: install Python 3.11 or 3.12, and name it, "
            "e.g. `PYTHON=python3.11 make test`"
        )


def fingerprint(stack):
    digest = hashlib.sha256(repr((ROOT, OURS)).encode())
    for name in (stack.requirements, stack.constraints, *INPUTS):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read_stamp():
    """What the last complete set-up was for; empty if there was none."""
    try:
        with open(STAMP) as stamp:
            content = json.load(stamp)
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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


def pin_of(stack, package):
    for name in (stack.constraints, "constraints.txt"):
        with open(os.path.join(ROOT, name)) as file:
            for line in file:
                if line.startswith(package + "=="):
                    return line.strip()
    raise SetupError(f"{stack.constraints} has no line {package}==...")


def torch_arguments(stack, build):
    """What pip installs for torch. Only PyTorch's own index has versions with a build's name in them."""
    pin = pin_of(stack, "torch")
    return [pin] if build is None else [f"{pin}+{build}", "--extra-index-url", TORCH_INDEX + build]


def dev_requirements(stack):
    """The lines of requirements-dev.txt, with the names that the stack has for them."""
    with open(os.path.join(ROOT, "requirements-dev.txt")) as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    for package, own in stack.replaced.items():
        lines = [own if line.startswith(package) else line for line in lines]
    return lines


def pip(stack, *arguments, env=None):
    command = [VENV_PYTHON, "-m", "pip", *arguments]
    if arguments[0] == "install":
        command[4:4] = ["-c", stack.constraints]
    if subprocess.call(command, cwd=ROOT, env=env):
        raise SetupError(
            f"`pip {' '.join(arguments)}` failed; its last lines above say why. Without network, "
            "point PIP_FIND_LINKS at a folder with the wheels. Where a pinned version does not "
            f"exist for this machine, change its line in {stack.constraints} within the range of "
            f"{stack.requirements}"
        )


def ask_torch():
    """Of the installed torch: version, CUDA version (None for a CPU build), headers, the GPUs' compute capabilities."""
    code = (
        "import json, os, torch; gpus = range(torch.cuda.device_count()); "
        "print(json.dumps(dict(version=torch.__version__, cuda=torch.version.cuda, "
        "include=os.path.join(os.path.dirname(torch.__file__), 'include'), "
        "gpus=[torch.cuda.get_device_capability(i) for i in gpus])))"
    )
    return json.loads(subprocess.check_output([VENV_PYTHON, "-W", "ignore", "-c", code], text=True))


def describe(torch):
    if torch["cuda"] is None:
        return "a CPU build"
    return f"built for CUDA {torch['cuda']}, {len(torch['gpus'])} GPU(s) visible"


def triton_for_its_interpreter():
    """The requirement that lets the tests run the Triton kernels on a CPU, where torch has not brought it."""
    there = subprocess.call([VENV_PYTHON, "-c", "import triton"], stderr=subprocess.DEVNULL) == 0
    return [TRITON] if sys.platform == "linux" and not there else []


def install_mmcv(stack, torch):
    """mmcv that fits this torch: a ready wheel, one that pip has kept, or one compiled now; whichever fits first."""
    if mmcv_fits(torch):
        return
    pin = pin_of(stack, stack.mmcv)
    install = [VENV_PYTHON, "-m", "pip", "install", "-q", "-c", stack.constraints, "--no-build-isolation"]
    quiet = dict(cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run([*install, "--upgrade", "--only-binary", stack.mmcv, pin], **quiet)
    if mmcv_fits(torch):
        return
    subprocess.run([VENV_PYTHON, "-m", "pip", "uninstall", "-q", "-y", stack.mmcv], **quiet)
    if pip_keeps(stack.mmcv):
        subprocess.run([*install, "--no-binary", stack.mmcv, pin], **quiet)
        if mmcv_fits(torch):
            return
        # Built for another torch, or without CUDA: pip would hand it out again and again.
        subprocess.run([VENV_PYTHON, "-m", "pip", "uninstall", "-q", "-y", stack.mmcv], **quiet)
        subprocess.run([VENV_PYTHON, "-m", "pip", "cache", "remove", stack.mmcv.replace("-", "_")], **quiet)
    compile_mmcv(torch, [*install, "--no-binary", stack.mmcv, pin])
    if not mmcv_fits(torch):
        raise SetupError(
            f"mmcv was compiled, but does not fit torch {torch['version']} ({describe(torch)}); all of the compiler's "
            f"output is in {os.path.join(VENV, 'mmcv-build.log')}"
        )


def mmcv_fits(torch):
    """Whether the installed mmcv loads with this torch, and has CUDA operators for its CUDA version if it has one."""
    code = "from mmcv.ops import get_compiling_cuda_version as v; import mmcv.ops; print(v())"
    found = subprocess.run(
        [VENV_PYTHON, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    if found.returncode:
        return False
    return torch["cuda"] is None or found.stdout.strip().split(".")[0] == torch["cuda"].split(".")[0]


def pip_keeps(package):
    """Whether pip's cache has a wheel that it built of the package."""
    command = [VENV_PYTHON, "-m", "pip", "cache", "list", package.replace("-", "_")]
    listed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return ".whl" in (listed.stdout or "")


def compile_mmcv(torch, command):
    check_compiler()
    environment = dict(os.environ, MMCV_WITH_OPS="1")
    # Debug symbols would make the library twenty times as large.
    environment["CFLAGS"] = (os.environ.get("CFLAGS", "") + " -g0").strip()
    how_long = "about 13 minutes on 2 cores"
    if torch["cuda"] is not None:
        toolkit = check_toolkit(torch["cuda"])
        environment.update(build_environment(toolkit, torch["gpus"], os.environ))
        environment.update(missing_headers(torch["include"], os.path.join(VENV, "cuda-include")))
        how_long = (
            f"with CUDA {toolkit.version[0]}.{toolkit.version[1]} for {environment['TORCH_CUDA_ARCH_LIST']}: 33 "
            "minutes on 2 cores for one kind of GPU, longer for more; TORCH_CUDA_ARCH_LIST=9.0 names one kind"
        )
    print(f"setup: no mmcv that is ready fits; compiling it ({how_long}; once: pip keeps the result)", flush=True)
    log_path = os.path.join(VENV, "mmcv-build.log")
    with open(log_path, "w") as log:
        build = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
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


def check_environment(stack, torch):
    pip(stack, "check")
    wanted = pin_of(stack, "torch").partition("==")[2]
    if torch["version"].partition("+")[0] != wanted:
        raise SetupError(
            f"torch {torch['version']} is installed, but {wanted} is the tested one: run "
            f"`.venv/bin/python -m pip install torch=={wanted}`, or write the other version into "
            f"{stack.constraints}"
        )
    for module, hint in (
        ("torch", "remove .venv and run this again"),
        ("mmcv.ops", f"mmcv was built for another torch: pip cache remove {stack.mmcv}, remove .venv"),
        ("rekd_det", "the message above names the package at fault"),
    ):
        if subprocess.call([VENV_PYTHON, "-W", "ignore", "-c", "import " + module], cwd=ROOT):
            raise SetupError(f"`import {module}` fails in .venv ({hint})")
    if torch["cuda"] is not None and torch["gpus"]:
        if subprocess.call([VENV_PYTHON, "-W", "ignore", "-c", CUDA_CHECK], cwd=ROOT):
            raise SetupError(
                "mmcv's RoIAlign and NMS do not run on this GPU; the message above says why. If it names a missing "
                "kernel image, mmcv was compiled for other GPUs: make clean, then TORCH_CUDA_ARCH_LIST="
                + " ".join(f"{a}.{b}" for a, b in torch["gpus"])
                + " make venv TORCH=..."
            )
        print("setup: mmcv's RoIAlign and NMS give the same on the GPU as on the CPU")


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"setup: error: {error}")
