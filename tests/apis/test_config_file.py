"""Reading a config file: options are merged, and what does nothing is said."""

from pathlib import Path

import pytest

from rekd_det.apis.config_file import read_config
from rekd_det.utils.errors import InputError

CONFIG = """
data_root = 'somewhere/'
model = dict(type='FasterRCNN', backbone=dict(depth=50))
train_dataloader = dict(batch_size=2)
load_from = None
"""


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.backbone.depth", 18),
        ("model.new_part", 1),
        ("train_dataloader.batch_size", 4),
        ("resume", True),
        ("randomness.seed", 3),
        ("find_unused_parameters", True),
    ],
)
def test_options_that_are_read_are_merged(config_file, key, value):
    cfg = read_config(config_file, {key: value})
    for part in key.split("."):
        cfg = cfg[part]
    assert cfg == value


def test_a_config_of_a_package_is_read_by_its_name():
    name = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
    assert read_config(name, {"model.backbone.depth": 34}).model.backbone.depth == 34


@pytest.mark.parametrize(("key", "value"), [("custom_hooks.1", 5), ("custom_hooks.1", [5]), ("custom_hooks.2.x", 5)])
def test_an_option_for_an_element_of_a_list(tmp_path, key, value):
    path = tmp_path / "config.py"
    path.write_text("custom_hooks = [dict(type='A'), dict(type='B'), 'C']\n")
    assert read_config(str(path), {"custom_hooks.1.x": 5}).custom_hooks[1].x == 5
    with pytest.raises(InputError, match=f"--cfg-options {key} can't be set in .*: after a number there must be"):
        read_config(str(path), {"load_from": "x", key: value})


def test_a_mistyped_key_in_the_file_is_warned_of(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("optim_wraper = dict(type='OptimWrapper')\ntest_pipeline = []\n")
    with pytest.warns(UserWarning) as warned:
        read_config(str(path))
    assert [str(w.message) for w in warned] == [f"{path}: nothing reads 'optim_wraper'; did you mean 'optim_wrapper'?"]


def test_a_variable_of_the_config_file_is_warned_of(config_file):
    with pytest.warns(UserWarning, match="'data_root' is a variable of the config file"):
        assert read_config(config_file, {"data_root": "x"}).data_root == "x"
