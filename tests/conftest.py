"""Set-up shared by all tests."""

import os

import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel, one thread each
if not torch.cuda.is_available():
    # Without a GPU the kernels run in Triton's interpreter. Triton reads this when the kernels are first imported.
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer

import rekd_det  # noqa: F401  registers everything

torch.set_num_threads(1)


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
