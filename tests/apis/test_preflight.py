import copy
from pathlib import Path

import pytest
from mmengine.config import Config

from rekd_det.apis.preflight import check_data
from rekd_det.utils.errors import InputError


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


def test_missing_data_under_wrappers_is_found(data_config):
    broken = copy.deepcopy(data_config.test_dataloader.dataset)
    broken.ann_file = "x.json"
    both = dict(type="ConcatDataset", datasets=[data_config.test_dataloader.dataset, broken])
    data_config.test_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=both)
    with pytest.raises(InputError, match=r"dataset.dataset.datasets.1.ann_file"):
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
