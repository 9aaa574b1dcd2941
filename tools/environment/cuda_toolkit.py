"""The CUDA compiler that mmcv's operators are compiled with, and how the build is made to use it."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: headers that PyTorch's own headers include; a compiler without the libraries' headers fails after minutes
HEADERS = ("cuda_runtime.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h")
#: compute capabilities for a machine without a GPU, by CUDA's major version: Volta to Hopper, and Turing to Blackwell
CAPABILITIES = {12: "7.0 7.5 8.0 8.6 8.9 9.0+PTX", 13: "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"}


class SetupError(Exception):
    """What is missing on this machine, and how to get it."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its folder, and the version of its nvcc as ``(major, minor)``."""

    home: str
    version: tuple[int, int]


def check_toolkit(wanted: str) -> Toolkit:
    """The toolkit that fits a PyTorch.

    Args:
        wanted: the CUDA version that PyTorch was built for, ``torch.version.cuda``, e.g. ``'12.8'``.

    Raises:
        SetupError: there is none, it is of another major version, or its libraries' headers are missing.
    """
    major, minor = wanted.split(".")[:2]
    get = (
        f"install the CUDA {major}.{minor} toolkit, which needs no GPU (Debian and Ubuntu with NVIDIA's repository: "
        f"apt-get install cuda-toolkit-{major}-{minor}; conda: conda install -c nvidia cuda-toolkit={major}.{minor}; "
        "clusters: module load cuda), or name its folder with CUDA_HOME"
    )
    found = find_toolkit(os.environ)
    if found is None:
        raise SetupError(
            f"PyTorch is built for CUDA {wanted}, so mmcv must be compiled with nvcc, which is not here: {get}"
        )
    if found.version[0] != int(major):
        raise SetupError(
            f"PyTorch is built for CUDA {wanted}, and the nvcc in {found.home} is of CUDA "
            f"{found.version[0]}.{found.version[1]}; their first numbers must agree: {get}. Or take the PyTorch that "
            "fits this nvcc: make venv TORCH=cu126, cu128 or cu130"
        )
    missing = [name for name in HEADERS if not os.path.exists(os.path.join(found.home, "include", name))]
    if missing:
        raise SetupError(
            f"the CUDA toolkit in {found.home} has no {', '.join(missing)} in its include/, and mmcv does not compile "
            f"without: {get}"
        )
    return found


def find_toolkit(environ: Mapping[str, str]) -> Toolkit | None:
    """Where PyTorch's build looks: CUDA_HOME, CUDA_PATH, the nvcc on the PATH, /usr/local/cuda."""
    named = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    homes = [named] if named else []
    if not named:
        # The one on the PATH may be a link, or a script that calls the real one in /usr/local/cuda.
        for nvcc in {on_path, on_path and os.path.realpath(on_path)} - {None}:
            homes.append(os.path.dirname(os.path.dirname(str(nvcc))))
        homes.append("/usr/local/cuda")
        homes.sort(key=lambda home: not os.path.exists(os.path.join(home, "include", HEADERS[0])))
    for home in homes:
        nvcc = os.path.join(home, "bin", "nvcc")
        if os.path.exists(nvcc):
            said = subprocess.run([nvcc, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            release = re.search(r"release (\d+)\.(\d+)", said.stdout or "")
            if release:
                return Toolkit(home, (int(release[1]), int(release[2])))
    return None


def missing_headers(torch_include: str, folder: str) -> dict[str, str]:
    """The variable that adds, in ``folder``, a header of mmcv 2.1's that newer PyTorch has under another name."""
    old, new = os.path.join("THC", "THCAtomics.cuh"), "ATen/cuda/Atomic.cuh"
    if os.path.exists(os.path.join(torch_include, old)):
        return {}
    path = os.path.join(folder, old)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(f"#pragma once\n#include <{new}>\n")
    known = os.environ.get("CPATH")
    return {"CPATH": folder + (os.pathsep + known if known else "")}


def build_environment(toolkit: Toolkit, gpus: Sequence[tuple[int, int]], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with which mmcv compiles its CUDA operators.

    Args:
        toolkit: what compiles.
        gpus: compute capability of each visible GPU, e.g. ``[(9, 0)]``. Without any, code for all usual ones is
            compiled, which takes several times as long.
        environ: TORCH_CUDA_ARCH_LIST in it is kept.
    """
    if gpus:
        chosen = " ".join(f"{major}.{minor}" for major, minor in sorted(set(gpus)))
    else:
        chosen = CAPABILITIES.get(toolkit.version[0], CAPABILITIES[max(CAPABILITIES)])
        if toolkit.version[0] == 12 and toolkit.version[1] >= 8:  # the first that knows Blackwell
            chosen = chosen.replace("9.0+PTX", "9.0 10.0 12.0+PTX")
    return {
        "FORCE_CUDA": "1",  # also without a GPU
        "CUDA_HOME": toolkit.home,
        "TORCH_CUDA_ARCH_LIST": environ.get("TORCH_CUDA_ARCH_LIST") or chosen,
    }
