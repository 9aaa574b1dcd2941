"""Set-up shared by all tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel, one thread each

import pytest
import torch

import rekd_det  # noqa: F401  registers everything

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def mmdet_scope():
    """Configs are written for MMDetection's scope, as under its Runner."""
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
