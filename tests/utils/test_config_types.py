"""A config's type by name, with a scope or without, and as a class."""

import pytest
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from rekd_det.utils.config_types import type_class, type_name


@pytest.mark.parametrize("kind", ["CheckpointHook", "mmengine.CheckpointHook", "mmengine.hooks.CheckpointHook"])
def test_by_name(kind):
    assert type_name(kind) == "CheckpointHook"
    assert type_class(kind, HOOKS) is CheckpointHook


def test_by_class():
    assert type_name(CheckpointHook) == "CheckpointHook"
    assert type_class(CheckpointHook, HOOKS) is CheckpointHook


@pytest.mark.parametrize("kind", [None, 3, "NoSuchHook"])
def test_of_no_class(kind):
    assert type_class(kind, HOOKS) is None
