"""The generated data set: reproducible, valid, and safe to write."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rekd_det.datasets.synthetic import PRESETS, build_dataset, coco_writer, render_scene
from rekd_det.datasets.synthetic.categories import FAMILIES, select_categories
from rekd_det.datasets.synthetic.coco_writer import uncompressed_rle
from rekd_det.datasets.synthetic.contact_sheet import comparison_sheet, contact_sheet
from rekd_det.datasets.synthetic.geometry import arms, place, polygon_area, rasterise, ring
from rekd_det.datasets.synthetic.shapes import category_frequencies
from rekd_det.utils.errors import InputError


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def load(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / f"annotations/instances_{split}2017.json"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes") / "tiny"
    build_dataset(root, "tiny")
    return root


# --- reproducible ---------------------------------------------------------------------------


def test_equal_arguments_give_equal_bytes(tiny, tmp_path):
    build_dataset(tmp_path / "again", "tiny")
    assert digest(tmp_path / "again") == digest(tiny)


def test_another_seed_gives_other_images(tiny, tmp_path):
    build_dataset(tmp_path / "other", "tiny", seed=1)
    name = "train2017/000000000001.jpg"
    assert digest(tmp_path / "other")[name] != digest(tiny)[name]


@pytest.mark.skipif(not cv2.__version__.startswith("4.10."), reason="OpenCV 4.11 and later round other edge pixels")
def test_bytes_of_this_version():
    # Guards against a change of the pictures without a change of GENERATOR_VERSION. Before JPEG,
    # because its bytes depend on the library that OpenCV was built with.
    scene = render_scene(PRESETS["tiny"], seed=0, split="train", index=0)
    content = hashlib.sha256(scene.image.tobytes())
    for item in scene.objects:
        content.update(np.packbits(item.mask).tobytes())
    assert (coco_writer.GENERATOR_VERSION, content.hexdigest()[:16]) == ("1.1", "9e28d0435db45073")


def test_an_image_does_not_depend_on_how_many_there_are(tiny, tmp_path):
    build_dataset(tmp_path / "more", "tiny", train=11)
    few, many = digest(tiny), digest(tmp_path / "more")
    for name in few:
        if name.endswith(".jpg"):
            assert many[name] == few[name]
    few_objects, many_objects = (load(r, "train").anns for r in (tiny, tmp_path / "more"))
    assert few_objects == {k: v for k, v in many_objects.items() if k in few_objects}


@pytest.mark.slow
def test_processes_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_writer, "_SMALL_SET", 1)
    build_dataset(tmp_path / "one", "tiny", workers=1)
    build_dataset(tmp_path / "two", "tiny", workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.slow
def test_processes_start_where_opencv_has_threads(tmp_path):
    # In a program of its own: forked children would inherit OpenCV's locks but not its threads, and wait for ever.
    program = tmp_path / "twice.py"
    program.write_text(
        "import cv2, numpy, sys\n"
        "from rekd_det.datasets.synthetic import build_dataset, coco_writer\n"
        "if __name__ == '__main__':\n"
        "    cv2.setNumThreads(2)\n"
        "    cv2.GaussianBlur(numpy.zeros((2000, 2000, 3), 'uint8'), (31, 31), 5)\n"
        "    coco_writer._SMALL_SET = 1\n"
        "    build_dataset(sys.argv[1], 'tiny', workers=2)\n"
    )
    out = tmp_path / "out"
    subprocess.run([sys.executable, str(program), str(out)], check=True, timeout=300)
    assert len(list((out / "train2017").glob("*.jpg"))) == PRESETS["tiny"].train


# --- valid COCO -----------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_and_areas_are_those_of_the_masks(tiny, split):
    coco = load(tiny, split)
    assert coco.anns
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation).astype(bool)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = columns[0], rows[0]
        assert annotation["bbox"] == [x, y, columns[-1] + 1 - x, rows[-1] + 1 - y]
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0


def test_masks_of_one_image_do_not_overlap(tiny):
    coco = load(tiny, "train")
    for image_id in coco.imgs:
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image_id]]
        assert np.sum(masks, axis=0).max() <= 1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ground_truth_as_detections_is_perfect(tiny, kind):
    coco = load(tiny, "val")
    results = [a | {"score": 1.0} for a in coco.anns.values()]
    for result in results:
        rle = mask_utils.frPyObjects(result["segmentation"], *result["segmentation"]["size"])
        result["segmentation"] = rle
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == 1.0


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_category_appears(tiny, split):
    coco = load(tiny, split)
    assert {a["category_id"] for a in coco.anns.values()} == set(coco.cats)


@pytest.mark.parametrize("preset", ["study", "large"])
def test_every_category_appears_in_the_fewest_images(preset):
    settings = PRESETS[preset]
    scenes = [render_scene(settings, 0, "val", i) for i in range(settings.min_images)]
    found = {item.category for scene in scenes for item in scene.objects}
    assert found == set(range(len(settings.categories)))


def test_categories_carry_their_family(tiny):
    for category in load(tiny, "train").cats.values():
        assert category["name"] in {c.name for c in FAMILIES[category["supercategory"]]}


@pytest.mark.parametrize(("preset", "count"), [("tiny", 12), ("demo", 12), ("study", 24)])
def test_number_of_categories(preset, count):
    names = {c.name for c in PRESETS[preset].categories}
    assert len(names) == len(PRESETS[preset].categories) == count


def test_frequencies_have_a_long_tail_in_every_family():
    frequency = category_frequencies(24, 0.9).reshape(6, 4)
    assert frequency.sum() == pytest.approx(1.0)
    assert frequency.max() / frequency.min() > 10
    assert np.all(frequency.max(axis=1) / frequency.min(axis=1) > 1.5)


def test_rle_of_a_mask_that_starts_and_ends_with_ones():
    mask = np.array([[1, 0, 1], [1, 0, 1]], bool)
    assert uncompressed_rle(mask) == {"size": [2, 3], "counts": [0, 2, 2, 2]}


# --- shapes ---------------------------------------------------------------------------------


def test_coverage_of_a_pixel_aligned_box():
    outline = [np.array([(2.0, 1.0), (6.0, 1.0), (6.0, 4.0), (2.0, 4.0)])]
    covered = rasterise(outline, 6, 8) >= 128
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(covered, expected)


@pytest.mark.parametrize("category", select_categories(6, 4), ids=lambda c: c.name)
def test_drawn_area_is_the_outlines(category):
    outline = place(category.outline(0.5), (64.0, 64.0), 50.0, 0.7, 1.0)
    covered = (rasterise(outline, 128, 128) >= 128).sum()
    assert covered == pytest.approx(polygon_area(outline), rel=0.03)


def test_a_ring_has_a_hole():
    outline = place(ring(0.5), (32.0, 32.0), 30.0, 0.0, 1.0)
    coverage = rasterise(outline, 64, 64)
    assert coverage[32, 32] == 0
    assert coverage[32, 58] == 255


def test_an_outline_outside_the_image_covers_nothing():
    outline = place(arms(4, 0.2), (500.0, -300.0), 10.0, 0.0, 1.0)
    assert not rasterise(outline, 32, 32).any()


# --- safe to write --------------------------------------------------------------------------


def test_a_second_call_writes_nothing(tiny):
    before = {p: p.stat().st_mtime_ns for p in tiny.rglob("*")}
    assert build_dataset(tiny, "tiny") is False
    assert {p: p.stat().st_mtime_ns for p in tiny.rglob("*")} == before


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and not a generated data set"):
        build_dataset(tmp_path, "tiny")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    assert build_dataset(tmp_path / "empty", "tiny") is True
    assert (tmp_path / "empty" / "annotations").is_dir()


def test_another_data_set_is_refused(tiny):
    with pytest.raises(InputError, match="another generated data set"):
        build_dataset(tiny, "tiny", seed=5)


def test_a_missing_image_is_noticed(tmp_path):
    build_dataset(tmp_path / "data", "tiny")
    next((tmp_path / "data" / "train2017").glob("*.jpg")).unlink()
    with pytest.raises(InputError, match="damaged: 7 of 8 images in train2017"):
        build_dataset(tmp_path / "data", "tiny")


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco_writer, "_annotations", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_dataset(tmp_path / "data", "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_writer.cv2, "imwrite", lambda *args: False)
    with pytest.raises(InputError, match=r"000000000001\.jpg can't be written"):
        build_dataset(tmp_path / "data", "tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "small"}, "preset 'small' is unknown; choose from tiny"),
        ({"preset": "tiny", "seed": -1}, "seed must not be negative"),
        ({"preset": "study", "train": 11}, "train must be at least 12 images"),
        ({"preset": "tiny", "val": 0}, "val must be at least 6 images"),
        ({"preset": "tiny", "size": 20}, "size must be at least 48 pixels"),
        ({"preset": "tiny", "workers": 0}, "workers must be at least 1"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        build_dataset(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


def test_size_scales_the_scene(tmp_path):
    build_dataset(tmp_path / "data", "tiny", size=192)
    coco = load(tmp_path / "data", "train")
    assert {(i["width"], i["height"]) for i in coco.imgs.values()} == {(192, 192)}
    # Twice the preset's size: a circumradius of 20 to 48 pixels.
    assert 60 < max(max(a["bbox"][2:]) for a in coco.anns.values()) <= 2 * 48 * 1.2


# --- pictures and the command line ------------------------------------------------------------


def test_sheets_have_a_panel_per_image(tiny):
    gap, panel = 6, 96 * 4
    assert contact_sheet(tiny, count=5).shape == (2 * (panel + gap) + gap, 4 * (panel + gap) + gap, 3)
    detection = {"image_id": 5_000_001, "category_id": 1, "bbox": [8, 8, 40, 40], "score": 0.9}
    without, below, with_one = (
        comparison_sheet(tiny, d, count=2) for d in ([], [detection | {"score": 0.1}], [detection])
    )
    np.testing.assert_array_equal(without, below)
    changed = np.argwhere((with_one != without).any(axis=-1))
    # Only the second panel, the one of the first image's detections, differs.
    assert changed[:, 1].min() >= panel + gap
    assert changed[:, 1].max() < 2 * (panel + gap)


def test_command_line(tmp_path, run_tool):
    target = tmp_path / "data"
    run_tool("make_shapes_coco.py", target, "--preset", "tiny", "--train", 7, "--seed", 3, "--contact-sheet")
    assert (target / "contact_sheet.png").is_file()
    info = json.loads((target / "annotations/instances_train2017.json").read_text())["info"]
    assert (info["train"], info["seed"], info["version"]) == (7, 3, coco_writer.GENERATOR_VERSION)


def test_command_line_reports_errors_without_a_traceback(tmp_path, run_tool):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as left:  # with a text: Python prints it and ends with status 1
        run_tool("make_shapes_coco.py", tmp_path, "--preset", "tiny")
    assert str(left.value.code).startswith(f"error: {tmp_path} is not empty")
