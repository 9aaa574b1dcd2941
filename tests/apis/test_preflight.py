import copy
from pathlib import Path

import pytest
from mmengine.config import Config

from rekd_det.apis.preflight import PreflightError, check_data, check_work_dir, read_config

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


@pytest.fixture
def data_config(tmp_path: Path) -> Config:
    """A config whose files all exist."""
    (tmp_path / "images").mkdir()
    (tmp_path / "boxes.json").write_text('{"images": [], "categories": []}')
    dataset = dict(data_root=str(tmp_path), ann_file="boxes.json", data_prefix=dict(img="images/"))
    return Config(
        dict(
            test_cfg=dict(),
            test_dataloader=dict(dataset=dataset),
            test_evaluator=dict(type="CocoMetric", ann_file=str(tmp_path / "boxes.json")),
        )
    )


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
    with pytest.raises(PreflightError, match=f"--cfg-options {key} can't be set in .*: after a number there must be"):
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


def test_data_that_is_there(data_config):
    check_data(data_config, ("test", "train"))


def test_missing_data_under_wrappers_is_found(data_config):
    broken = copy.deepcopy(data_config.test_dataloader.dataset)
    broken.ann_file = "x.json"
    both = dict(type="ConcatDataset", datasets=[data_config.test_dataloader.dataset, broken])
    data_config.test_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=both)
    with pytest.raises(PreflightError, match=r"dataset.dataset.datasets.1.ann_file"):
        check_data(data_config, ("test",))


@pytest.mark.parametrize(
    "remote", [dict(data_root="s3://bucket/"), dict(data_root="x", backend_args=dict(backend="p"))]
)
def test_remote_data_is_left_to_its_backend(data_config, remote):
    data_config.test_dataloader.dataset.update(remote)
    check_data(data_config, ("test",))


def test_a_split_that_is_not_used_is_not_checked(data_config):
    data_config.test_dataloader.dataset.ann_file = "x.json"
    data_config.test_cfg = None
    check_data(data_config, ("test",))


def test_the_work_dir_is_created(tmp_path):
    check_work_dir(str(tmp_path / "a/b"))
    assert list((tmp_path / "a/b").iterdir()) == []


def test_a_work_dir_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=r"file/b' cannot be written.*--work-dir"):
        check_work_dir(str(tmp_path / "file/b"))
