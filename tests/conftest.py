"""Set-up shared by all tests."""

import functools
import os
import sys
from pathlib import Path

import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel, one thread each
if not torch.cuda.is_available():
    # Without a GPU the kernels run in Triton's interpreter. Triton reads this when the kernels are first imported.
    os.environ["TRITON_INTERPRET"] = "1"

import mmengine.config.config
import mmengine.config.utils
import pytest
from load_tool import TOOLS, load_tool
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer
from tiny_pair import TinyPair, write_tiny_pair

import rekd_det  # noqa: F401  registers everything

torch.set_num_threads(1)

# What mmengine does again and again with the same outcome, done once. It was most of the time that the tests took:
# for each config of the zoo that is named it reads all of the zoo's 100 metafiles and scans the installed packages,
# and for each run it has the same config formatted three times.
mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)
mmengine.config.config.is_installed = functools.cache(mmengine.config.config.is_installed)
_format, _formatted = getattr(mmengine.config.config, "FormatCode", None), {}


def format_once(text: str, **style) -> tuple[str, bool]:
    if text not in _formatted:
        _formatted[text] = _format(text, **style)
    return _formatted[text]


if _format:  # the maintained fork of mmengine formats configs another way
    mmengine.config.config.FormatCode = format_once


@pytest.fixture(autouse=True, scope="session")
def mmdet_scope():
    """Configs are written for MMDetection's scope, as under its Runner."""
    init_default_scope("mmdet")


@pytest.fixture(autouse=True)
def no_old_visualizer():
    """A Runner that asks for a visualizer of a known name gets the old one, which writes where the old run was."""
    yield
    for kind in (Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()


@pytest.fixture
def run_tool(monkeypatch):
    """``run_tool("train.py", ...)`` does in this process what ``python tools/train.py ...`` would do."""

    def run(tool: str | Path, *arguments: object) -> None:
        path = TOOLS / tool
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        monkeypatch.setenv("LOCAL_RANK", "0")  # which the tools export
        load_tool(path).main()

    return run


@pytest.fixture
def outcome(run_tool, capsys):
    """As ``run_tool``; returns the exit code, or the message that is there instead, and what was printed."""

    def run(tool: str, *arguments: object) -> tuple[object, str]:
        code: object = 0
        try:
            run_tool(tool, *arguments)
        except SystemExit as left:
            code = left.code
        return code, capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> TinyPair:
    """A tiny pair of detectors in a folder, with its images and untrained checkpoints."""
    return write_tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def unformatted_configs(monkeypatch):
    """Configs are written as valid Python that nobody made pretty: that takes ten times as long as all the rest."""
    monkeypatch.setattr(mmengine.config.config, "FormatCode", lambda text, **style: (text, True), raising=False)
