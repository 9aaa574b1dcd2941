"""What is refused in an annotation file is in test_bad_input.py; here is what is not."""

import json

import pytest

from rekd_det.apis import annotations
from rekd_det.apis.annotations import AnnotationError, check_annotations


def write(path, *boxes, **changes) -> str:
    anns = [dict(id=i, image_id=1, category_id=1, bbox=box) for i, box in enumerate(boxes)]
    path.write_text(json.dumps(dict(images=[dict(id=1)], annotations=anns, categories=[dict(id=1)], **changes)))
    return str(path)


def test_a_sound_file_passes_in_silence(tmp_path, recwarn):
    check_annotations(write(tmp_path / "a.json", [0, 0, 1, 5], [-3, 2.5, 9, 9]), "key")
    assert not recwarn.list


def test_boxes_that_mmdet_leaves_out_are_counted(tmp_path):
    path = write(tmp_path / "a.json", [0, 0, 5, 5], [0, 0, 0, 5], [0, 0, 5, 0.5])
    with pytest.warns(UserWarning, match="key: 2 boxes are narrower than a pixel .* annotation 1"):
        check_annotations(path, "key")


def test_a_large_file_is_left_to_the_data_set(tmp_path, monkeypatch):
    path = write(tmp_path / "a.json", [0, 0, -1, 5])
    with pytest.raises(AnnotationError):
        check_annotations(path, "key")
    monkeypatch.setattr(annotations, "LARGEST_BYTES", 10)
    check_annotations(path, "key")
