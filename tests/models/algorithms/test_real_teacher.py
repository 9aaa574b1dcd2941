"""A detector trained on COCO teaches a narrower one on real images: its AP is the known one, and the losses fall."""

import json
import re
import sys

import pytest
from commands import run
from load_tool import TOOLS

ROOT = TOOLS.parent
SHARED = ROOT.parent / "shared"
CHECKPOINT = SHARED / "checkpoints/yolox_nano_coco_mmdet.pth"
IMAGES = SHARED / "data/coco_real"
#: box AP on the 100 validation images, as measured with MMDetection's own tool
KNOWN_AP = "0.3190"
ITERATIONS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(
        not (CHECKPOINT.exists() and IMAGES.exists()),
        reason="needs ../shared/checkpoints/yolox_nano_coco_mmdet.pth and ../shared/data/coco_real",
    ),
]

CONFIG = """
_base_ = ["mmdet::yolox/yolox_nano_8xb8-300e_coco.py", "{root}/configs/_base_/rekd_distill.py"]
custom_hooks = _base_.rekd_hooks
student = _base_.model
student.backbone.widen_factor = 0.125
student.neck.update(in_channels=[32, 64, 128], out_channels=32)
student.bbox_head.update(in_channels=32, feat_channels=32)
student.data_preprocessor.batch_augments = None
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=student,
    teacher=dict(cfg_path="mmdet::yolox/yolox_nano_8xb8-300e_coco.py"),
    teacher_ckpt="{checkpoint}",
)
data_root = "{images}/"
# The zoo's mosaics are for 300 epochs; plain small images let a CPU see each image a few times.
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=pipeline,
    ),
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters={iterations}, val_begin=10000)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=20)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval={iterations}))
log_processor = dict(by_epoch=False, window_size=1)
randomness = dict(seed=0)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("yolox") / "narrow.py"
    file.write_text(CONFIG.format(root=ROOT, checkpoint=CHECKPOINT, images=IMAGES, iterations=ITERATIONS))
    return file


def test_the_teachers_ap_is_the_known_one(config, tmp_path):
    output = run(sys.executable, TOOLS / "test.py", config, "--teacher", "--work-dir", tmp_path, cwd=ROOT)
    assert re.findall(r"coco/bbox_mAP: ([0-9.]+)", output)[-1] == KNOWN_AP


def test_a_narrower_student_learns_from_it(config, tmp_path):
    run(sys.executable, TOOLS / "train.py", config, "--work-dir", tmp_path, cwd=ROOT)
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    steps = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert len(steps) == ITERATIONS

    def means(name, part):
        return sum(s[name] for s in steps[part]) / len(steps[part])

    quarter = ITERATIONS // 4
    for name in ("distill.loss_tisd", "distill.loss_ntid", "loss"):
        first, last = means(name, slice(0, quarter)), means(name, slice(-quarter, None))
        assert last < 0.95 * first, f"{name}: {first} to {last}"
