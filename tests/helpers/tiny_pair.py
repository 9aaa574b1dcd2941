"""A pair of tiny R-CNN detectors on generated images: files that a command line can be given."""

from dataclasses import dataclass
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.fileio import load

from rekd_det.datasets.synthetic import build_dataset

_STUDENT = """
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
]
data_root = '{data}/'
metainfo = dict(classes={classes})
model = dict(
    backbone=dict(depth=18, base_channels=8, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes={count}),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=50, max_per_img=20), rcnn=dict(sampler=dict(num=16))
    ),
    # Untrained networks are sure of nothing, and an evaluation needs detections.
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=10)
    ),
)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, filter_cfg=dict(min_size=1)),
)
val_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo),
)
test_dataloader = val_dataloader
for loader in (train_dataloader, val_dataloader):
    loader['dataset']['pipeline'] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
    ]
del loader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=100)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.001))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=2))
auto_scale_lr = dict(enable=False, base_batch_size=16)
randomness = dict(seed=0)
custom_imports = dict(imports=['rekd_det'], allow_failed_imports=False)
"""

_PAIR = """
_base_ = ['./student.py']
model = dict(
    _delete_=True,
    type='mmrazor.ReKDDistill',
    distiller=dict(type='mmrazor.ReKDDistiller', loss=dict(type='mmrazor.ReKDLoss', top_k=2)),
    architecture=_base_.model,
    teacher=dict(
        cfg_path='{folder}/student.py', cfg_options={{'model.backbone.base_channels': 16,
        'model.neck.in_channels': [16, 32, 64, 128]}}
    ),
    teacher_ckpt='{folder}/teacher.pth',
)
custom_hooks = [dict(type='mmrazor.PairCheckHook')]
"""

_TEACHER = """
_base_ = ['./student.py']
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
"""


#: a part of a config: images that are augmented at random, so that a resume has something to restore
AUGMENTED = """
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
"""


@dataclass(frozen=True)
class TinyPair:
    """Paths of the config files, and of the folder that holds them and the data."""

    folder: Path

    @property
    def student(self) -> Path:
        return self.folder / "student.py"

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher.py"

    @property
    def pair(self) -> Path:
        return self.folder / "pair.py"

    @property
    def data(self) -> Path:
        return self.folder / "data"


def write_tiny_pair(folder: Path) -> TinyPair:
    """Generate the images, and write the configs and untrained checkpoints ``teacher.pth`` and ``student.pth``."""
    pair = TinyPair(folder)
    build_dataset(pair.data, "tiny", workers=1)
    names = load(str(pair.data / "annotations/instances_train2017.json"))["categories"]
    classes = tuple(category["name"] for category in names)
    pair.student.write_text(_STUDENT.format(data=pair.data, classes=classes, count=len(classes)))
    pair.teacher.write_text(_TEACHER)
    pair.pair.write_text(_PAIR.format(folder=folder))
    torch.manual_seed(0)
    for config in (pair.teacher, pair.student):
        model = MODELS.build(Config.fromfile(str(config)).model)
        meta = dict(dataset_meta=dict(classes=classes))
        torch.save({"state_dict": model.state_dict(), "meta": meta}, config.with_suffix(".pth"))
    return pair
