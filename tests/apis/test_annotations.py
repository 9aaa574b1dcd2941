"""Which annotation files pass, and which entries and masks are refused; the command lines are in test_bad_input.py."""

import json

import numpy as np
import pytest
from pycocotools.mask import encode

from rekd_det.apis import annotations
from rekd_det.apis.annotations import check_annotations
from rekd_det.apis.class_names import ClassNames
from rekd_det.utils.errors import InputError


def content(*boxes) -> dict:
    anns = [dict(id=i, image_id=1, category_id=1, bbox=box, area=4.0) for i, box in enumerate(boxes)]
    image = dict(id=1, height=8, width=9, file_name="a.jpg")
    return dict(images=[image], annotations=anns, categories=[dict(id=1, name="cat")])


def write(path, *boxes, **changes) -> str:
    path.write_text(json.dumps({**content(*boxes), **changes}))
    return str(path)


def test_a_sound_file_passes_in_silence(tmp_path, recwarn):
    check_annotations(write(tmp_path / "a.json", [0, 0, 1, 5], [-3, 2.5, 9, 6]), "key")
    assert not recwarn.list


def test_boxes_that_mmdet_leaves_out_are_counted(tmp_path):
    path = write(tmp_path / "a.json", [0, 0, 5, 5], [0, 0, 0, 5], [0, 0, 5, 0.5])
    with pytest.warns(UserWarning, match="key: 2 boxes are narrower than a pixel .* annotation 1"):
        check_annotations(path, "key")


def test_boxes_as_two_corners_are_pointed_out(tmp_path):
    path = write(tmp_path / "a.json", [0, 0, 5, 5], [4, 4, 9, 8])
    with pytest.warns(UserWarning, match=r"key: 1 of 2 boxes reach beyond .* annotation 1: COCO's are \[x, y, width"):
        check_annotations(path, "key")


def test_objects_that_the_classes_leave_out_are_counted(tmp_path):
    path = write(tmp_path / "a.json", [0, 0, 5, 5], categories=[dict(id=1, name="cat"), dict(id=2, name="dog")])
    with pytest.warns(
        UserWarning, match="1 of 1 objects will be left out, whose categories a.classes does not name: 'cat'"
    ):
        check_annotations(path, "key", classes=ClassNames(["dog"], "a.classes"))


def test_a_large_file_is_left_to_the_data_set(tmp_path, monkeypatch):
    path = write(tmp_path / "a.json", [0, 0, -1, 5])
    with pytest.raises(InputError):
        check_annotations(path, "key")
    monkeypatch.setattr(annotations, "LARGEST_BYTES", 10)
    check_annotations(path, "key")


def test_a_test_set_needs_no_annotations(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({k: v for k, v in content().items() if k != "annotations"}))
    check_annotations(str(path), "key", objects=False)
    with pytest.raises(InputError, match="no list `annotations`"):
        check_annotations(str(path), "key")


def test_an_annotation_of_an_image_that_was_taken_out_is_no_fault(tmp_path):
    file = content([0, 0, 5, 5], [0, 0, 5, 5])
    file["annotations"][1]["image_id"] = 7
    (tmp_path / "a.json").write_text(json.dumps(file))
    check_annotations(str(tmp_path / "a.json"), "key", masks=False)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("images", "id", [], r"image number 0 has id \[\]"),
        ("images", "height", "8", "image 1 has height '8'"),
        ("images", "width", 2**70, "image 1 has width"),
        ("images", "file_name", 3, "image 1 has file_name 3"),
        ("categories", "name", None, "category 1 has no name"),
        ("annotations", "id", None, "annotation number 0 has id None"),
        ("annotations", "image_id", {}, r"annotation 0 has image_id \{\}"),
        ("annotations", "category_id", [1], r"annotation 0 has category_id \[1\]"),
        ("annotations", "area", None, "annotation 0 has area None"),
        ("annotations", "area", float("nan"), "annotation 0 has area nan"),
        ("annotations", "iscrowd", "no", "annotation 0 has iscrowd 'no'"),
        ("annotations", "bbox", [0, 0, 1e300, 5], "annotation 0 has bbox"),
    ],
)
def test_an_entry_that_is_none_is_named(tmp_path, part, key, value, message):
    file = content([0, 0, 5, 5])
    file[part][0][key] = value
    path = tmp_path / "a.json"
    path.write_text(json.dumps(file))
    with pytest.raises(InputError, match=f"key: '{path}': {message}"):
        check_annotations(str(path), "key")


@pytest.mark.parametrize(
    ("mask", "sound"),
    [
        ([[0, 0, 4, 0, 4, 4]], True),
        (dict(size=[8, 9], counts=[10, 62]), True),
        (dict(size=[8, 9], counts=encode(np.asfortranarray(np.ones((8, 9), np.uint8)))["counts"].decode()), True),
        (None, False),
        ([], False),
        ([[0, 0, "4"]], False),
        ([0, 0, 4, 4, 4, 4], False),
        (dict(size=[8, 8], counts=[64]), False),
        (dict(size=[8, 9], counts=[10, 61]), False),
        (dict(size=[8, 9], counts=5), False),
    ],
)
def test_masks_are_checked_where_they_are_read(tmp_path, mask, sound):
    file = content([0, 0, 5, 5])
    file["annotations"][0]["segmentation"] = mask
    path = tmp_path / "a.json"
    path.write_text(json.dumps(file))
    check_annotations(str(path), "key")
    if sound:
        check_annotations(str(path), "key", masks=True)
    else:
        with pytest.raises(InputError, match="annotation 0 has segmentation"):
            check_annotations(str(path), "key", masks=True)


def test_masks_that_are_ignored_beside_polygons_are_counted(tmp_path):
    file = content([0, 0, 5, 5], [1, 1, 4, 4])
    counts = dict(size=[8, 9], counts=[0, 8, 64])
    for ann, mask in zip(file["annotations"], ([[0, 0, 5, 0, 5, 5]], counts), strict=True):
        ann["segmentation"] = mask
    path = tmp_path / "a.json"
    path.write_text(json.dumps(file))
    check_annotations(str(path), "key", masks=True)
    with pytest.warns(
        UserWarning, match=r"1 of 2 masks are no polygons, and LoadAnnotations\(poly2mask=False\) ignores"
    ):
        check_annotations(str(path), "key", masks=True, polygons=True)


def test_images_that_are_not_there_are_counted(tmp_path):
    file = content([0, 0, 5, 5])
    file["images"] += [dict(file["images"][0], id=i, file_name=f"sub/{i}.jpg") for i in (2, 3)]
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/3.jpg"):
        (tmp_path / "images" / name).touch()
    path = tmp_path / "a.json"
    path.write_text(json.dumps(file))
    with pytest.raises(InputError, match=r"1 of its images do not exist, e.g. '.*images/sub/2.jpg'"):
        check_annotations(str(path), "key", images=str(tmp_path / "images"))
