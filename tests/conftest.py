"""Set-up shared by all tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel, one thread each

import pytest
import torch
from mmengine.registry import init_default_scope

import rekd_det  # noqa: F401  registers everything

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def mmdet_scope():
    """Configs are written for MMDetection's scope, as under its Runner."""
    init_default_scope("mmdet")
