"""Which class names pass, and for which data sets; what is refused on a command line is in test_bad_input.py."""

import json
from pathlib import Path

import mmdet
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from rekd_det.apis.class_names import reads_as_coco
from rekd_det.apis.preflight import check_data
from rekd_det.utils.errors import InputError

STOCK = Path(mmdet.__file__).parent / ".mim" / "configs"
COCO = CocoDataset.METAINFO["classes"]


@pytest.fixture
def data(tmp_path):
    """Make the config of a data set from its classes and those of its file."""

    def make(names, categories, **options) -> Config:
        (tmp_path / "images").mkdir()
        image = dict(id=1, height=8, width=9, file_name="a.jpg")
        (tmp_path / "images" / "a.jpg").touch()
        content = dict(images=[image], categories=[dict(id=i, name=n) for i, n in enumerate(categories)])
        (tmp_path / "a.json").write_text(json.dumps(content))
        dataset = dict(type="CocoDataset", data_root=str(tmp_path), ann_file="a.json", data_prefix=dict(img="images"))
        if names is not None:
            dataset["metainfo"] = dict(classes=names)
        return Config(dict(test_cfg={}, test_dataloader=dict(dataset=dataset | options)))

    return make


def test_all_classes_or_some_in_the_files_order_pass(data):
    cfg = data(("cat", "horse"), ("cat", "dog", "horse", "dog"))  # a name that is not used may be there twice
    check_data(cfg, ("test",))
    cfg.test_dataloader.dataset.metainfo.classes = ["cat"]
    check_data(cfg, ("test",))
    cfg.test_dataloader.dataset.metainfo.classes = (
        "horse"  # ("horse") without the comma; pycocotools compares substrings
    )
    with pytest.raises(InputError, match=r"dataset.metainfo.classes is the text 'horse', .* write \('horse',\)"):
        check_data(cfg, ("test",))


def test_classes_in_a_file_of_names(data, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndgo\n")
    with pytest.raises(InputError, match=r"no 'dgo', which .*; did you mean 'dog'"):
        check_data(data(str(tmp_path / "names.txt"), ("cat", "dog")), ("test",))


def test_a_class_twice_in_the_file(data):
    with pytest.raises(InputError, match="`categories` names 'cat' 2 times"):
        check_data(data(("cat", "dog"), ("cat", "dog", "cat")), ("test",))


@pytest.mark.parametrize("kind", ["CocoDataset", "mmdet.CocoDataset", CocoDataset])
def test_cocos_own_classes_hold_where_none_are_set(data, kind):
    check_data(data(None, COCO, type=kind), ("test",))


def test_classes_without_the_files_order_mislabel_in_mmdet(data):
    """Why this is checked: mmdet takes such a file without a word, and a cat becomes label 1, which means a dog."""
    cfg = data(("cat", "dog"), ("dog", "cat"))
    dataset = CocoDataset(**{k: v for k, v in cfg.test_dataloader.dataset.items() if k != "type"})
    assert dataset.cat2label == {0: 0, 1: 1}  # the file's: dog, cat


def test_a_metric_that_sorts_the_categories_is_not_compared(data, tmp_path):
    cfg = data(("cat", "dog"), ("cat", "dog"))
    content = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "b.json").write_text(json.dumps({**content, "categories": content["categories"][::-1]}))
    cfg.test_evaluator = dict(type="CocoMetric", ann_file=str(tmp_path / "b.json"), sort_categories=True)
    check_data(cfg, ("test",))
    cfg.test_evaluator.sort_categories = False
    with pytest.raises(InputError, match=r"test_evaluator.ann_file: .* the order of the classes differs"):
        check_data(cfg, ("test",))


@pytest.mark.parametrize(
    ("base", "compared"),
    [
        ("coco_detection", True),
        ("cityscapes_instance", True),
        ("deepfashion", True),
        ("ade20k_instance", True),
        ("isaid_instance", True),
        ("v3det", True),
        ("coco_panoptic", False),
        ("ade20k_panoptic", False),
        ("lvis_v0.5_instance", False),
        ("lvis_v1_instance", False),
        ("objects365v1_detection", False),
        ("objects365v2_detection", False),
        ("openimages_detection", False),
        ("voc0712", False),
        ("wider_face", False),
    ],
)
def test_data_sets_that_number_labels_as_coco_does(base, compared):
    dataset = Config.fromfile(STOCK / "_base_" / "datasets" / f"{base}.py").val_dataloader.dataset
    while "dataset" in dataset or "datasets" in dataset:
        dataset = dataset.get("dataset") or dataset.datasets[0]
    assert reads_as_coco(dataset) == compared


def test_crowd_human_and_unknown_classes_are_not_compared():
    for name in ("CrowdHumanDataset", "NoSuchDataset"):
        assert not reads_as_coco(dict(type=name))


@pytest.fixture
def xml_config(tmp_path):
    """A config of VOC's files, in which an image has a cat and a horse."""
    folder = tmp_path / "VOC2007" / "Annotations"
    folder.mkdir(parents=True)
    objects = "".join(f"<object><name>{name}</name></object>" for name in ("cat", "horse"))
    (folder / "1.xml").write_text(f"<annotation>{objects}</annotation>")
    (tmp_path / "train.txt").write_text("1\n")
    prefix = dict(sub_data_root="VOC2007")
    dataset = dict(type="VOCDataset", data_root=str(tmp_path), ann_file="train.txt", data_prefix=prefix)
    return Config(dict(test_cfg={}, test_dataloader=dict(dataset=dataset)))


def test_xml_objects_of_each_class_pass(xml_config, recwarn):
    for names in (("horse", "cat"), ("cat",)):
        xml_config.test_dataloader.dataset.metainfo = dict(classes=names)
        check_data(xml_config, ("test",))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("names", "left_out"), [(("cat", "dog"), ", and 'horse' will be left out"), (("cat", "dog", "horse"), "")]
)
def test_a_class_without_xml_objects_is_told(xml_config, names, left_out):
    xml_config.test_dataloader.dataset.metainfo = dict(classes=names)
    with pytest.warns(UserWarning, match=rf"metainfo.classes: no object of the XML files is 'dog'{left_out}$"):
        check_data(xml_config, ("test",))


def test_vocs_own_classes_are_compared(xml_config):
    with pytest.warns(UserWarning, match="XML files is 'aeroplane', 'bicycle', .*'tvmonitor'$"):
        check_data(xml_config, ("test",))


def test_a_head_with_fewer_classes_than_xml_files_is_refused(xml_config):
    xml_config.test_dataloader.dataset.metainfo = dict(classes=("cat", "horse"))
    xml_config.model = dict(type="RetinaNet", bbox_head=dict(type="RetinaHead", num_classes=1))
    with pytest.raises(InputError, match=r"bbox_head.num_classes=1, but .*metainfo.classes has 2 classes"):
        check_data(xml_config, ("test",))


def test_an_annotation_that_is_not_xml_is_named(xml_config, tmp_path):
    path = tmp_path / "VOC2007" / "Annotations" / "1.xml"
    path.write_text("")
    with pytest.raises(InputError, match=f"dataset.ann_file names '{path}', which is not an XML file"):
        check_data(xml_config, ("test",))
