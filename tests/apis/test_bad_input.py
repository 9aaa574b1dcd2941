"""What a user can get wrong, through the command lines: one clear message, exit code 1, nothing half-written."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from commands import fail
from forged import remove_storages
from mmengine.config import Config
from tiny_pair import TinyPair, write_tiny_pair

from rekd_det.utils.read_as_data import load_plain

ROOT = Path(__file__).resolve().parents[2]
LOSS = "model.distiller.loss"
TRAIN_SET = "train_dataloader.dataset"


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> TinyPair:
    """A sound pair, and beside it every file that is wrong in one way."""
    pair = write_tiny_pair(tmp_path_factory.mktemp("pair"))
    folder = pair.folder
    checkpoints = [load_plain(folder / f"{name}.pth") for name in ("teacher", "student")]
    teacher, student = (checkpoint["state_dict"] for checkpoint in checkpoints)
    a, b, *others = checkpoints[0]["meta"]["dataset_meta"]["classes"]
    reordered = dict(dataset_meta=dict(classes=[b, a, *others]))
    torch.save({"state_dict": teacher, "meta": reordered}, folder / "reordered_teacher.pth")
    torch.save({"state_dict": {f"architecture.{k}": v for k, v in student.items()}}, folder / "distilled.pth")
    torch.save({"state_dict": {k: v * float("nan") for k, v in teacher.items()}}, folder / "nan_teacher.pth")
    torch.save({"state_dict": {k: v * float("nan") for k, v in student.items()}}, folder / "nan_student.pth")
    torch.save({"state_dict": {"w": torch.zeros(3)}}, folder / "other.pth")
    torch.save({"epoch": 3}, folder / "weightless.pth")
    (folder / "empty.pth").touch()
    (folder / "text.pth").write_text("not found\n")
    (folder / "cut.pth").write_bytes((folder / "teacher.pth").read_bytes()[:100_000])
    torch.save({"state_dict": teacher}, folder / "dataless.pth", _use_new_zipfile_serialization=False)
    remove_storages(folder / "dataless.pth")
    (folder / "run").mkdir()
    (folder / "run/last_checkpoint").write_text("http://127.0.0.1:9/iter_2.pth")
    _write_configs(folder)
    _write_annotations(pair)
    (folder / "xml" / "Annotations").mkdir(parents=True)
    (folder / "xml" / "train.txt").write_text("1\n")
    objects = "".join(f"<object><name>{name}</name></object>" for name in (f"{a}s", b, *others))
    (folder / "xml" / "Annotations" / "1.xml").write_text(f"<annotation>{objects}</annotation>")
    return pair


_REPEATED = (
    "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, "
    "dataset={{_base_.train_dataloader.dataset}}))\n"
)
_OTHER_STRIDES = "teacher=dict(cfg_options={'model.backbone.strides': (1, 1, 2, 2)})"
_CWD = dict(type="mmrazor.ChannelWiseDivergence", levels=[0, 1])
_FBKD = dict(
    type="mmrazor.FBKDLoss",
    levels=[1],
    student_connector=dict(type="mmrazor.FBKDStudentConnector", in_channels=16, sub_sample=True),
    teacher_connector=dict(type="mmrazor.FBKDTeacherConnector", in_channels=16, sub_sample=True),
)


def _write_configs(folder: Path) -> None:
    (folder / "syntax.py").write_text("model = dict(\n")
    (folder / "fails.py").write_text("x = undefined_name\n")
    (folder / "baseless.py").write_text("_base_ = './none.py'\n")
    (folder / "notes.txt").write_text("no config\n")
    a, b, *others = Config.fromfile(str(folder / "pair.py")).metainfo.classes
    derived = {
        "no_ckpt": "model = dict(teacher_ckpt=None)",
        "shards": "runner_type = 'FlexibleRunner'\nstrategy = dict(type='FSDPStrategy')",
        "no_head": "model = dict(architecture=dict(_delete_=True, cfg_path='mmdet::rpn/rpn_r50_fpn_1x_coco.py'))",
        "spec_keys": "model = dict(teacher=dict(backbone=dict(depth=50)))",
        "pretrained": "model = dict(teacher=dict(pretrained=True))",
        "no_teacher_cfg": "model = dict(teacher=dict(_delete_=True))",
        "order": f"train_dataloader = dict(dataset=dict(metainfo=dict(classes={[b, a, *others]})))",
        "typo": f"train_dataloader = dict(dataset=dict(metainfo=dict(classes={['elipse', b, *others]})))",
        "test_typo": f"test_dataloader = dict(dataset=dict(metainfo=dict(classes={['elipse', b, *others]})))",
        "repeated": f"train_dataloader = dict(dataset=dict(metainfo=dict(classes={[a, b, *others, a]})))",
        "default_classes": "train_dataloader = dict(dataset=dict(metainfo=dict(_delete_=True)))",
        "hook": "custom_hooks = [dict(type='NoSuchHook')]",
        "own_hooks": "custom_hooks = [dict(type='EMAHook')]",
        "merged": "model = dict(backbone=dict(depth=18))",
        "stopping": "custom_hooks = [dict(type='EarlyStoppingHook', monitor='bbox_mAP')]",
        "warmup": "custom_hooks = [dict(type='mmrazor.DistillWarmupHook', iters=0)]",
        "schedule": "param_scheduler = [dict(type='MultiStepLR', milestone=[1])]",
        "two_schedulers": "param_scheduler = [dict(type='LinearLR', end=1), dict(type='MultiStepLR', milestones=[1])]",
        "switch": f"{_REPEATED}custom_hooks = [dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=[])]",
        "yolox_switch": f"{_REPEATED}custom_hooks = [dict(type='YOLOXModeSwitchHook')]",
        "voc": "val_evaluator = dict(_delete_=True, type='VOCMetric')",
        "balanced": (
            "train_dataloader = dict(dataset=dict(_delete_=True, type='ClassBalancedDataset', oversample_thr=0.1, "
            "dataset=dict(type='ConcatDataset', datasets=[{{_base_.train_dataloader.dataset}}])))"
        ),
        "xml": (
            f"train_dataloader = dict(dataset=dict(type='VOCDataset', data_root='{folder}/xml', ann_file='train.txt', "
            "data_prefix=dict(_delete_=True, sub_data_root='')))"
        ),
        "rows": f"model = dict(distiller=dict(loss=None, rows='teacher', feature_losses=dict(loss_cwd={_CWD})))",
        "masks": "model = dict(architecture=dict(roi_head=dict(mask_head=dict(type='FCNMaskHead'))))",
        "untested": "test_dataloader = test_evaluator = test_cfg = None",
        "preprocessor": "data_preprocessor = {{_base_.model.architecture.data_preprocessor}}",
        "features": f"model = dict({_OTHER_STRIDES}, distiller=dict(feature_losses=dict(loss_cwd={_CWD})))",
        "tuples": f"model = dict({_OTHER_STRIDES}, distiller=dict(feature_losses=dict(loss_fbkd={_FBKD})))",
        "other_distiller": "model = dict(distiller=dict(_delete_=True, type='mmrazor.ConfigurableDistiller'))",
        "clash": f"model = dict(distiller=dict(feature_losses=dict(loss_tisd={_CWD})))",
        "feature_option": f"model = dict(distiller=dict(feature_losses=dict(loss_cwd=dict({_CWD}, loss_wieght=2))))",
        "feature_list": f"model = dict(distiller=dict(feature_losses=[{_CWD}]))",
        "no_dataset": "val_dataloader = dict(_delete_=True)",
        "unscaled": "auto_scale_lr = dict(_delete_=True)",
    }
    for name, text in derived.items():
        (folder / f"{name}.py").write_text(f"_base_ = './pair.py'\n{text}\n")


def _write_annotations(pair: TinyPair) -> None:
    source = pair.data / "annotations" / "instances_train2017.json"
    (pair.folder / "text.json").write_text("not json")
    (pair.folder / "list.json").write_text("[]")

    def write(name: str, **changes) -> None:
        content = json.loads(source.read_text())
        for key, value in changes.items():
            content["annotations"][0][key] = value
        (pair.folder / name).write_text(json.dumps(content))

    write("negative.json", bbox=[1, 1, -5, 5])
    write("short_box.json", bbox=[1, 1, 5])
    write("nan.json", bbox=[1, 1, float("nan"), 5])
    write("category.json", category_id=99)
    content = json.loads(source.read_text())
    reordered = content["categories"][1::-1] + content["categories"][2:]
    (pair.folder / "reordered.json").write_text(json.dumps({**content, "categories": reordered}))
    (pair.folder / "objectless.json").write_text(json.dumps({**content, "annotations": []}))
    (pair.folder / "imageless.json").write_text(json.dumps({**content, "images": []}))
    for name, changes in (
        ("text_ids", lambda ann: {"image_id": str(ann["image_id"])}),
        ("crowds", lambda _: {"iscrowd": 1}),
    ):
        anns = [{**ann, **changes(ann)} for ann in content["annotations"]]
        (pair.folder / f"{name}.json").write_text(json.dumps({**content, "annotations": anns}))
    for ann in content["annotations"]:
        ann["bbox"] = [x / 128 for x in ann["bbox"]]
    (pair.folder / "relative.json").write_text(json.dumps(content))


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Args:
        name: what is wrong.
        message: part of what must be said; ``{folder}`` stands for the pair's folder here and in the arguments.
        options: of ``--cfg-options``.
        config: name in the pair's folder.
        arguments: after the config.
        tool: of ``tools/``.
    """

    name: str
    message: str
    options: tuple[str, ...] = ()
    config: str = "pair.py"
    arguments: tuple[str, ...] = ()
    tool: str = "train.py"


def loss(name: str, option: str, message: str, *more: str) -> Case:
    return Case(name, message, (f"{LOSS}.{option}", *(f"{LOSS}.{m}" for m in more)))


def teacher(name: str, checkpoint: str, message: str) -> Case:
    return Case(name, message, (f"model.teacher_ckpt={{folder}}/{checkpoint}",))


def annotations(name: str, file: str, message: str) -> Case:
    return Case(
        name, f"{TRAIN_SET}.ann_file: '{{folder}}/{file}'{message}", (f"{TRAIN_SET}.ann_file={{folder}}/{file}",)
    )


CASES = [
    # --- the config file
    Case("config missing", "config '{folder}/none.py' does not exist", config="none.py"),
    Case(
        "config not in the package",
        "config 'mmdet::a/b.py': package `mmdet` has no such config",
        config="mmdet::a/b.py",
    ),
    Case("config no config", "notes.txt' is not a config: expected a .py", config="notes.txt"),
    Case("config syntax", "config '{folder}/syntax.py' can't be read", config="syntax.py"),
    Case("config raises", "name 'undefined_name' is not defined", config="fails.py"),
    Case("config base", "none.py", config="baseless.py"),
    # --- keys
    Case("key typo at the top", "the config has no 'modell'; did you mean 'model'?", ("modell.teacher_ckpt=x",)),
    Case("key through a value", "do not fit '{folder}/pair.py'", ("model.teacher_ckpt.path=x",)),
    Case(
        "element of a list",
        "--cfg-options param_scheduler.1 can't be set in '{folder}/two_schedulers.py': after a number there must",
        ("param_scheduler.1=5",),
        config="two_schedulers.py",
    ),
    Case("key too late", "write model.distiller.loss.top_k=...", ("distill.distiller.loss.top_k=3",)),
    Case(
        "key of the backbone",
        "ResNet() can't be built: it has no option 'depht'; did you mean 'depth'?",
        ("model.architecture.backbone.depht=18",),
    ),
    Case(
        "key of the student in a test",
        "--cfg-options model.test_cfg.rcnn.score_thr: the model is a distillation, which has no such option. "
        "Options of the student are under model.architecture",
        ("model.test_cfg.rcnn.score_thr=0.9",),
        arguments=("{folder}/student.pth",),
        tool="test.py",
    ),
    Case(
        "preprocessor beside the student's",
        "(model.data_preprocessor or data_preprocessor) differ in mean",
        ("model.data_preprocessor.mean=[1,2,3]",),
    ),
    Case(
        "preprocessor beside the model",
        "(model.data_preprocessor or data_preprocessor) differ in mean",
        ("model.architecture.data_preprocessor.mean=[1,2,3]",),
        config="preprocessor.py",
    ),
    Case(
        "another optimizer with --amp", "--amp can't be combined with", ("optim_wrapper.type=X",), arguments=("--amp",)
    ),
    Case("nothing to test on", "has no test_dataloader", config="untested.py", arguments=("x",), tool="test.py"),
    Case("key of the optimizer", "lrr", ("optim_wrapper.optimizer.lrr=0.1",)),
    Case(
        "key of the loop",
        "IterBasedTrainLoop() can't be built: it has no option 'max_iterz'; did you mean 'max_iters'?",
        ("train_cfg.max_iterz=4",),
    ),
    Case("key of the data set", "CocoDataset(", (f"{TRAIN_SET}.ann_fil=x",)),
    Case("key of a scheduler", "'milestone'", config="schedule.py"),
    Case("value of the backbone", "invalid depth 17 for resnet", ("model.architecture.backbone.depth=17",)),
    Case(
        "class of the optimizer",
        "optim_wrapper(type='OptimWrapper', optimizer.type='SDG') can't be built",
        ("optim_wrapper.optimizer.type=SDG",),
    ),
    Case(
        "option of the gradient's clipping",
        "optim_wrapper.clip_grad has no option 'max_norms'; did you mean 'max_norm'?",
        ("optim_wrapper.clip_grad.max_norms=10",),
    ),
    Case(
        "option of the data loader",
        "train_dataloader has no option 'batchsize'; did you mean 'batch_size'?",
        ("train_dataloader.batchsize=2",),
    ),
    Case(
        "name of a default hook",
        "default_hooks.checkpoints has no `type`; did you mean 'checkpoint'?",
        ("default_hooks.checkpoints.interval=2",),
    ),
    Case(
        "hook on the command line",
        "config that inherits this one, with custom_hooks = [*_base_.custom_hooks, dict(type=...)]",
        ("custom_hooks=[dict(type='EMAHook')]",),
    ),
    Case(
        "keys of a detector merged into the pair",
        "it has no option 'backbone'; write _delete_=True in `model`",
        config="merged.py",
    ),
    Case(
        "teacher with another order of categories, and hooks of one's own",
        "the order differs",
        ("model.teacher_ckpt={folder}/reordered_teacher.pth",),
        config="own_hooks.py",
    ),
    Case(
        "option of the averaged weights",
        "custom_hooks.0 has no option 'momentun'; did you mean 'momentum'?",
        ("custom_hooks.0.momentun=0.1",),
        config="own_hooks.py",
    ),
    Case(
        "option of the learning rate's scaling",
        "auto_scale_lr has no option 'base_batchsize'; did you mean 'base_batch_size'?",
        ("auto_scale_lr.base_batchsize=1",),
        arguments=("--auto-scale-lr",),
    ),
    Case("class of a hook", "NoSuchHook is not in the mmdet::hook registry", config="hook.py"),
    Case("class of the model", "ReKDDistil is not in the", ("model.type=mmrazor.ReKDDistil",)),
    Case(
        "option of the checkpoint hook",
        "default_hooks.checkpoint has no option 'save_bset'; did you mean 'save_best'?",
        ("default_hooks.checkpoint.save_bset=auto",),
    ),
    Case(
        "metric of the checkpoint hook",
        "default_hooks.checkpoint.save_best: the validation gives no metric 'coco/bbox_mPA'; did you mean",
        ("default_hooks.checkpoint.save_best=coco/bbox_mPA",),
    ),
    Case(
        "state of an optimizer in parts",
        "set default_hooks.checkpoint.save_optimizer=False",
        ("optim_wrapper.optimizer.type=ZeroRedundancyOptimizer", "optim_wrapper.optimizer.optimizer_type=SGD"),
    ),
    Case(
        "end of the mixing behind a wrapper",
        "custom_hooks.0: PipelineSwitchHook changes train_dataloader.dataset, which is a RepeatDataset",
        config="switch.py",
    ),
    Case(
        "end of YOLOX's mixing behind a wrapper",
        "custom_hooks.0: YOLOXModeSwitchHook changes train_dataloader.dataset, which is a RepeatDataset",
        config="yolox_switch.py",
    ),
    Case(
        "metric of early stopping",
        "custom_hooks.0.monitor: the validation gives no metric 'bbox_mAP'; did you mean 'coco/bbox_mAP",
        config="stopping.py",
    ),
    Case(
        "masks of a student without them",
        "val_evaluator.metric: 'segm' evaluates masks, and model.architecture (FasterRCNN) predicts none",
        ("val_evaluator.metric=segm",),
    ),
    Case(
        "masks that are not loaded",
        "train_dataloader.dataset.pipeline: LoadAnnotations loads no masks, and model.architecture.roi_head.mask_head",
        ("model.architecture.roi_head.mask_head.type=FCNMaskHead",),
    ),
    Case(
        "masks that RTMDet-Ins learns from",
        "train_dataloader.dataset.pipeline: LoadAnnotations loads no masks, and model.architecture.bbox_head",
        ("model.architecture.bbox_head.type=RTMDetInsHead",),
    ),
    Case(
        "masks of a teacher without them, in a test",
        "test_evaluator.metric: 'segm' evaluates masks, and model (FasterRCNN) predicts none",
        ("test_evaluator.metric=bbox,segm",),
        arguments=("--teacher",),
        tool="test.py",
    ),
    Case(
        "item of the metric",
        "val_evaluator.metric_items: CocoMetric has no item 'mAP50'; did you mean 'mAP_50'?",
        ("val_evaluator.metric_items=[mAP50]",),
    ),
    Case(
        "option of the metric of a later test",
        "test_evaluator: CocoMetric has no option 'metrics'; did you mean 'metric'?",
        ("test_evaluator.metrics=bbox",),
    ),
    Case(
        "option of the faster metric",
        "val_evaluator: FasterCocoMetric has no option 'clas_wise'; did you mean 'classwise'?",
        ("val_evaluator.type=FasterCocoMetric", "val_evaluator.clas_wise=True"),
    ),
    Case(
        "nothing to compare detections with",
        "val_evaluator.ann_file is not set, and val_dataloader.dataset.pipeline loads no annotations",
        ("val_evaluator.ann_file=None", "val_dataloader.dataset.pipeline.1.type=Resize"),
    ),
    Case(
        "annotations that are loaded and not packed",
        "val_dataloader.dataset.pipeline does not pack the annotations: set val_evaluator.ann_file, or add 'instances'",
        ("val_evaluator.ann_file=None",),
    ),
    Case(
        "nothing to compare detections with, as VOC does",
        "val_dataloader.dataset.pipeline loads no annotations, so there is nothing to compare with: add LoadAnn",
        ("val_dataloader.dataset.pipeline.1.type=Resize",),
        config="voc.py",
    ),
    Case(
        "text in place of a dict",
        "RPNHead() can't be built: 'str' object has no attribute 'get'",
        ("model.architecture.rpn_head.loss_cls=CrossEntropyLoss",),
    ),
    Case(
        "joined data sets under one that needs their categories",
        "ClassBalancedDataset() can't be built: 'ConcatDataset' object has no attribute 'get_cat_ids'",
        config="balanced.py",
    ),
    Case("class of XML files", "no object of the XML files is 'circle'; did you mean 'circles'?", config="xml.py"),
    Case(
        "metric of VOC",
        "save_best: the validation gives no metric 'coco/bbox_mAP': it has pascal_voc/AP50, pascal_voc/mAP",
        ("default_hooks.checkpoint.save_best=coco/bbox_mAP",),
        config="voc.py",
    ),
    Case("rows of no loss", "model.distiller.rows='teacher' weighs the rows of model.distiller.loss", config="rows.py"),
    Case("no data set", "val_dataloader has no dataset", config="no_dataset.py"),
    Case("no interval", "train_cfg.val_interval=0 is no interval", ("train_cfg.val_interval=0",)),
    Case(
        "more classes than a classifier has",
        "val_evaluator.topk=(1, 20) looks at 20 classes, but model.head has num_classes=10",
        ("val_evaluator.topk=(1,20)",),
        config="mmpretrain::resnet/resnet18_8xb16_cifar10.py",
    ),
    Case(
        "metric of a classifier's checkpoint hook",
        "save_best: the validation gives no metric 'accuracy/top5'; did you mean 'accuracy/top1'?",
        ("default_hooks.checkpoint.save_best=accuracy/top5",),
        config="mmpretrain::resnet/resnet18_8xb16_cifar10.py",
    ),
    Case("option of a hook", "DistillWarmupHook: iters must be an int >= 1, got 0", config="warmup.py"),
    # --- the loss
    loss(
        "loss key typo",
        "topk=3",
        "model.distiller.loss has no option topk; ReKDLoss takes activation, alpha, backend, beta, foreground_only, "
        "gamma, loss_weight, mass_weight, reduction, select_by, standardize, tau, tisd, top_k; did you mean 'top_k'?",
    ),
    loss("K of 0", "top_k=0", "top_k must be an int >= 1, or a float between 0 and 1, a share of the mass, got 0"),
    loss(
        "K no int", "top_k=2.5", "top_k must be an int >= 1, or a float between 0 and 1, a share of the mass, got 2.5"
    ),
    loss("K >= C", "top_k=13", "top_k=13 leaves no tail category: the head has 13 logits"),
    loss("negative tau", "tau=-1", "tau must be a finite number > 0, got -1"),
    loss("tau of 0", "tau=0", "tau must be a finite number > 0, got 0"),
    loss("tau no number", "tau=warm", "tau must be a finite number > 0, got 'warm'"),
    loss("negative alpha", "alpha=-1", "alpha must be a finite number >= 0, got -1"),
    loss("infinite beta", "beta=1e999", "beta must be a finite number >= 0"),
    loss("unknown activation", "activation=tanh", "activation must be one of softmax, sigmoid, implicit_bg"),
    loss("unknown tisd", "tisd=outside", "tisd must be one of joint, within"),
    loss("unknown selection", "select_by=nobody", "select_by must be one of teacher, student"),
    loss("no reduction", "reduction=none", "model.distiller.loss.reduction='none' gives no scalar"),
    loss("unknown backend", "backend=magic", "backend must be one of"),
    loss("empty TISD", "tisd=within", "TISD is identically 0", "top_k=1"),
    loss("gamma for softmax", "gamma=1.0", "gamma needs activation='sigmoid'"),
    loss("unknown loss", "type=mmrazor.ReKDLos", "model.distiller.loss.type='mmrazor.ReKDLos' is not a loss"),
    loss("another kind of loss", "type=mmdet.L1Loss", "is not a loss on classification logits"),
    Case(
        "feature maps of other sizes",
        "feature_losses.loss_cwd: ChannelWiseDivergence can't compare level 1 of the feature maps: "
        "model.architecture.extract_feat gives (2, 16, 8, 8), model.teacher.extract_feat (2, 16, 16, 16). Give both "
        "networks the same strides; or set model.distiller.feature_losses.loss_cwd.levels=[0], whose sizes agree",
        config="features.py",
    ),
    Case(
        "feature maps of other sizes behind connectors",
        "feature_losses.loss_fbkd: FBKDLoss can't compare level 1 of the feature maps",
        config="tuples.py",
    ),
    Case(
        "feature loss named like a part of the other",
        "feature_losses.loss_tisd: ReKDLoss has a part of that name",
        config="clash.py",
    ),
    Case(
        "option of a feature loss",
        "feature_losses.loss_cwd has no option loss_wieght; ChannelWiseDivergence takes loss_weight, tau; did you mean",
        config="feature_option.py",
    ),
    Case("list of feature losses", "feature_losses must be a dict of losses by name", config="feature_list.py"),
    Case(
        "MMRazor's own distiller",
        "model.distiller.type=ConfigurableDistiller: ReKDDistill needs mmrazor.ReKDDistiller",
        config="other_distiller.py",
    ),
    Case("a text in place of a bool", "must be True or False, got 'no'", ("model.calculate_student_loss=no",)),
    # --- the pair
    Case("unknown head", "the student's RPNHead is not supported. Supported heads:", config="no_head.py"),
    Case(
        "teacher without weights",
        "model.teacher_ckpt is not set, and an untrained teacher teaches noise",
        config="no_ckpt.py",
    ),
    Case("teacher without a model", "model.teacher needs either `type` or `cfg_path`", config="no_teacher_cfg.py"),
    Case(
        "teacher's config missing",
        "model.teacher.cfg_path 'none.py': no such file",
        ("model.teacher.cfg_path=none.py",),
    ),
    Case(
        "teacher's package missing",
        "no package `nopackage` is installed",
        ("model.teacher.cfg_path=nopackage::a/b.py",),
    ),
    Case(
        "teacher's config not in the package",
        "package `mmdet` has no such config",
        ("model.teacher.cfg_path=mmdet::a/b.py",),
    ),
    Case("teacher changed beside cfg_path", "unknown keys ['backbone']; only cfg_options", config="spec_keys.py"),
    Case("teacher pretrained", "model.teacher.pretrained=True is not supported", config="pretrained.py"),
    Case(
        "other number of classes",
        "model.architecture.roi_head.bbox_head.num_classes=5, but train_dataloader.dataset.metainfo.classes has 12",
        ("model.architecture.roi_head.bbox_head.num_classes=5",),
    ),
    Case(
        "other number of classes without distillation",
        "model.roi_head.bbox_head.num_classes=20, but train_dataloader.dataset.metainfo.classes has 12",
        ("model.roi_head.bbox_head.num_classes=20",),
        config="student.py",
    ),
    Case(
        "teacher's config with a mistake in it",
        "model.teacher.cfg_path",
        ("model.teacher.cfg_path={folder}/syntax.py",),
    ),
    teacher(
        "other order of the teacher's categories",
        "reordered_teacher.pth",
        "or bring the data set in the teacher's, and metainfo.classes with it: labels follow the order of `categories`",
    ),
    # --- checkpoints
    teacher("teacher missing", "none.pth", "none.pth' does not exist"),
    teacher("teacher empty", "empty.pth", "empty.pth' is an empty file"),
    teacher("teacher text", "text.pth", "text.pth' is damaged or not a PyTorch checkpoint"),
    teacher("teacher truncated", "cut.pth", "cut.pth' is damaged"),
    teacher("teacher without data", "dataless.pth", "dataless.pth' is damaged"),
    teacher("teacher a folder", "data", "data' is a folder"),
    teacher("teacher without weights in it", "weightless.pth", "weightless.pth' holds no weights"),
    teacher("teacher of another architecture", "other.pth", "does not fit FasterRCNN"),
    teacher("student as teacher", "student.pth", "size mismatch for backbone.conv1.weight"),
    teacher("NaN in the teacher", "nan_teacher.pth", "the teacher's logits hold NaN or +inf; check model.teacher_ckpt"),
    Case("NaN in the student", "the student's logits hold NaN", ("load_from={folder}/nan_student.pth",)),
    Case(
        "start from another architecture",
        "none of the checkpoint's weights belongs to the student",
        ("load_from={folder}/other.pth",),
    ),
    Case("start from text", "text.pth' is damaged or not a PyTorch checkpoint", ("load_from={folder}/text.pth",)),
    Case("resume from text", "not a PyTorch checkpoint", arguments=("--resume", "{folder}/text.pth")),
    Case("resume from nothing", "'none.pth' does not exist", arguments=("--resume", "none.pth")),
    Case(
        "resume from a URL that the folder names",
        "run/last_checkpoint' names 'http://127.0.0.1:9/iter_2.pth', which is no file of this machine",
        arguments=("--resume", "--work-dir", "{folder}/run"),
    ),
    Case(
        "resume from weights",
        "has weights but no training state",
        arguments=("--resume", "{folder}/student.pth"),
    ),
    # --- data and places
    Case("data root missing", f"{TRAIN_SET}.ann_file: '/nowhere/", (f"{TRAIN_SET}.data_root=/nowhere",)),
    Case(
        "data root missing, with blanks",
        f"{TRAIN_SET}.ann_file: '/no where/ü (1) x/annotations",
        (f"{TRAIN_SET}.data_root=/no where/ü (1) x/",),
    ),
    Case(
        "images missing",
        f"{TRAIN_SET}.data_prefix.img: '{{folder}}/data/nothing' does not exist",
        (f"{TRAIN_SET}.data_prefix.img=nothing",),
    ),
    Case(
        "annotations of the metric missing",
        "val_evaluator.ann_file: 'none.json' does not exist",
        ("val_evaluator.ann_file=none.json",),
    ),
    annotations("annotations no JSON", "text.json", " is not a JSON file"),
    annotations("annotations no COCO", "list.json", " is not in COCO's format: it has no list `images`"),
    annotations("annotations without objects", "objectless.json", " has 8 images and no object: nothing to learn"),
    annotations("annotations without images", "imageless.json", " has 0 images and "),
    annotations(
        "annotations of other images", "text_ids.json", ": no object belongs to one of its images: image_id is '"
    ),
    annotations("annotations of crowds", "crowds.json", ": all 29 objects are crowds (iscrowd=1), which are ignored"),
    Case(
        "masks that the pipeline ignores",
        "masks are no polygons, and LoadAnnotations(poly2mask=False) ignores such objects: set poly2mask=True",
        (f"{TRAIN_SET}.pipeline.1.with_mask=True", f"{TRAIN_SET}.pipeline.1.poly2mask=False"),
    ),
    Case(
        "annotations of the validation without objects",
        "objectless.json' has 8 images and no object: nothing to evaluate against",
        ("val_dataloader.dataset.ann_file={folder}/objectless.json",),
    ),
    annotations("negative box", "negative.json", ": annotation 100 has bbox [1, 1, -5, 5]"),
    annotations("short box", "short_box.json", ": annotation 100 has bbox [1, 1, 5]"),
    annotations("NaN box", "nan.json", ": annotation 100 has bbox [1, 1, nan, 5]"),
    annotations("relative boxes", "relative.json", ": all boxes are narrower than a pixel"),
    annotations("unlisted category", "category.json", ": annotation 100 has category_id 99"),
    Case(
        "class typo",
        "`categories` has no 'elipse', which train_dataloader.dataset.metainfo.classes names; did you mean 'ellipse'?",
        config="typo.py",
    ),
    Case(
        "no class of the file's",
        "`categories` has no 'person' and 79 more, which CocoDataset (as train_dataloader.dataset.metainfo.classes is "
        "not set) names",
        config="default_classes.py",
    ),
    Case(
        "class twice",
        "train_dataloader.dataset.metainfo.classes names 'circle' 2 times",
        config="repeated.py",
    ),
    Case(
        "other order of classes",
        "label 0 is 'ellipse' in train_dataloader.dataset.metainfo.classes and 'circle' in the file",
        config="order.py",
    ),
    annotations("other order in the file", "reordered.json", ": the order of the classes differs: label 0 is 'circle'"),
    Case(
        "other order in the file of the validation",
        "val_dataloader.dataset.ann_file: '{folder}/reordered.json': the order of the classes differs",
        ("val_dataloader.dataset.ann_file={folder}/reordered.json",),
    ),
    Case(
        "other order in the file of the metric",
        "val_evaluator.ann_file: '{folder}/reordered.json': the order of the classes differs",
        ("val_evaluator.ann_file={folder}/reordered.json",),
    ),
    Case(
        "other images in the file of the metric",
        "so detections would be compared with the objects of other images. Name the same file for both",
        ("val_evaluator.ann_file={folder}/data/annotations/instances_train2017.json",),
    ),
    Case(
        "no image left",
        "no image is left in the data set; look at its filter_cfg",
        (f"{TRAIN_SET}.filter_cfg.min_size=1000",),
    ),
    Case(
        "class typo in a test",
        "which test_dataloader.dataset.metainfo.classes names; did you mean 'ellipse'?",
        config="test_typo.py",
        arguments=("{folder}/student.pth",),
        tool="test.py",
    ),
    Case(
        "work dir not writable",
        "folder '{folder}/text.pth/x' cannot be written (Not a directory): choose another with --work-dir",
        arguments=("--work-dir", "{folder}/text.pth/x"),
    ),
    Case("rate without a base", "--auto-scale-lr", config="unscaled.py", arguments=("--auto-scale-lr",)),
    Case(
        "launcher without its variables",
        "--launcher mpi needs the environment variable(s)",
        arguments=("--launcher", "mpi"),
    ),
    # --- the other tools
    Case(
        "test without a pair",
        "this config is not a pair",
        config="student.py",
        arguments=("--teacher",),
        tool="test.py",
    ),
    Case(
        "flips of a student with masks",
        "--tta: mmdet's DetTTAModel merges boxes, and model (FasterRCNN) predicts masks as well; leave --tta out",
        config="masks.py",
        arguments=("{folder}/student.pth", "--tta"),
        tool="test.py",
    ),
    Case("test with no checkpoint", "'none.pth' does not exist", arguments=("none.pth",), tool="test.py"),
    Case(
        "test of a teacher without one",
        "no model.teacher_ckpt",
        ("model.teacher_ckpt=None",),
        arguments=("--teacher",),
        tool="test.py",
    ),
    Case(
        "test of a teacher with the student's",
        "size mismatch for backbone.conv1",
        arguments=("{folder}/student.pth", "--teacher"),
        tool="test.py",
    ),
    Case("test with another checkpoint", "does not fit FasterRCNN", arguments=("{folder}/other.pth",), tool="test.py"),
    Case(
        "a detector alone from distilled weights",
        "'{folder}/distilled.pth' is of a distillation",
        ("load_from={folder}/distilled.pth",),
        config="student.py",
    ),
    Case("MMRazor's loop", "val_cfg.type: MMRazor's loop", ("val_cfg.type=mmrazor.SingleTeacherDistillValLoop",)),
    Case("no such module", "the student's is 'architecture.backbone'", ("activation_checkpointing=['backbone']",)),
    Case("shards", "strategy.type='FSDPStrategy' is not supported", config="shards.py"),
    Case(
        "results that can't be written",
        "folder '{folder}/text.pth' cannot be written (File exists): choose another with --out",
        arguments=("{folder}/student.pth", "--out", "{folder}/text.pth/found.pkl"),
        tool="test.py",
    ),
    Case("check without a pair", "this config is not a pair", config="student.py", tool="check_pair.py"),
    Case("check too small", "at least 64 pixels", arguments=("--size", "8", "8"), tool="check_pair.py"),
    Case(
        "export a plain detector",
        "is not of a distillation",
        config="student.pth",
        arguments=("-o", "x.pth"),
        tool="export_student.py",
    ),
    Case(
        "export to no folder",
        "folder '{folder}/text.pth/x' cannot be written (Not a directory): choose another with --out",
        config="distilled.pth",
        arguments=("-o", "{folder}/text.pth/x/student.pth", "--config", "{folder}/pair.py"),
        tool="export_student.py",
    ),
]


def files(folder: Path) -> set[str]:
    return {str(p) for p in folder.rglob("*") if p.suffix in (".pth", ".partial")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused_with_one_message(case, pair, unformatted_configs, tmp_path, monkeypatch, run_tool, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    config = case.config if "::" in case.config else str(pair.folder / case.config)
    arguments = [config, *case.arguments]
    if case.options:
        arguments += ["--cfg-options", *case.options]
    before = files(pair.folder)
    with pytest.raises(SystemExit) as left:
        run_tool(case.tool, *(a.format(folder=pair.folder) for a in arguments))
    assert isinstance(left.value.code, str), capsys.readouterr().out[-2000:]
    assert left.value.code.startswith("error: ")
    assert case.message.format(folder=pair.folder) in left.value.code
    assert "Traceback" not in left.value.code
    assert files(pair.folder) == before
    assert not files(tmp_path)
    assert not any("(train)" in path.read_text() for path in tmp_path.rglob("*.log"))  # not one iteration


@pytest.mark.slow
def test_a_message_ends_the_process_without_a_traceback(pair, tmp_path):
    train = (sys.executable, ROOT / "tools" / "train.py", pair.pair)
    assert "error: " in fail(*train, "--cfg-options", f"{LOSS}.topk=3", cwd=tmp_path, status=1)
