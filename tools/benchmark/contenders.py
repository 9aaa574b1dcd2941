"""The ways to distil a detector that ``step.py`` compares. Each is a function that returns a step's total loss.

No weights are loaded: time and memory do not depend on them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS as RAZOR_MODELS
from torch import Tensor

from rekd_det.models.adapters import RCNNAdapter
from rekd_det.models.teachers.teacher import freeze
from rekd_det.models.utils.taps import TapSet
from rekd_det.testing.tiny_detectors import build_random, settle, tiny_batch
from rekd_det.utils.pair_config import is_pair, resolve_model_config
from rekd_det.utils.pretrained import drop_pretrained

Step = Callable[[], Tensor]

#: options of the teacher, by the name under which they are measured
VARIANTS: dict[str, dict[str, Any]] = {
    "folded": dict(teacher_fuse_bn=True),
    "nhwc": dict(teacher_fuse_bn=True, teacher_channels_last=True),
    "gather": dict(teacher_fuse_bn=True, teacher_channels_last=True, teacher_roi_gather=True),
    "bf16": dict(teacher_fuse_bn=True, teacher_channels_last=True, teacher_dtype="bf16"),
    "compiled": dict(teacher_fuse_bn=True, teacher_compile=True),
}

#: the layer whose output is the class logits, for MMRazor's recorders
_LOGIT_LAYERS = {
    "StandardRoIHead": ("roi_head.bbox_head.fc_cls", 1),
    "RetinaHead": ("bbox_head.retina_cls", 5),
    "ATSSHead": ("bbox_head.atss_cls", 5),
    "GFLHead": ("bbox_head.gfl_cls", 5),
    "FCOSHead": ("bbox_head.conv_cls", 5),
}


class Workbench:
    """A pair's two networks with random weights, and one batch for all contenders.

    Args:
        config: a pair's config.
        size: height and width of the images in pixels.
        images: images in the batch.
        device: 'cpu' or 'cuda'.
        cfg_options: overrides of the config, as on the command line.
    """

    def __init__(
        self, config: str, size: tuple[int, int], images: int, device: str, cfg_options: Mapping | None
    ) -> None:
        cfg = Config.fromfile(config)
        cfg.merge_from_dict(dict(cfg_options or {}))
        if not is_pair(cfg.model):
            raise SystemExit(f"{config} is not a pair: its model needs `architecture` and `teacher`")
        self.distiller = cfg.model.distiller
        self.student = _random_detector(cfg.model.architecture, seed=0)
        self.teacher = _random_detector(cfg.model.teacher, seed=1)
        batch = tiny_batch(self.student, size, images, objects=7)
        self.inputs, self.samples = batch["inputs"], batch["data_samples"]
        for model in (self.student, self.teacher):
            settle(model, self.inputs)  # activations of a usual size
        freeze(self.teacher)
        self.student.train().to(device)
        self.teacher.to(device)
        self.inputs, self.samples = self.inputs.to(device), [s.to(device) for s in self.samples]

    @property
    def head(self) -> str:
        """Class name of the head that classifies."""
        return type(getattr(self.student, "roi_head", getattr(self.student, "bbox_head", None))).__name__

    def contenders(self, variants: list[str]) -> dict[str, Step]:
        """The steps by name; those that do not exist for this head are left out."""
        bare = self.bare_teacher()

        def floor() -> Tensor:
            bare()
            return self.student_alone()

        steps = {"student": self.student_alone, "floor": floor, "ours": self.ours()}
        steps.update({f"ours {name}": self.ours(**VARIANTS[name]) for name in variants})
        if self.head in _LOGIT_LAYERS:
            steps["mmrazor"] = self.mmrazor()
        if self.head == "RetinaHead":
            steps["head twice"] = self.head_twice
        return steps

    @contextmanager
    def teacher_parts(self, variants: list[str]) -> Iterator[dict[str, Callable[[], object]]]:
        """What the steps do beside the student's own forward and all backward, by the same names.

        The student's forward, which the rows come from, has run when the block begins.
        """
        models = {"ours": self.algorithm(), **{f"ours {n}": self.algorithm(**VARIANTS[n]) for n in variants}}
        parts: dict[str, Callable[[], object]] = {"floor": self.bare_teacher()}
        with ExitStack() as steps:
            for name, model in models.items():
                steps.enter_context(model.distiller.step())
                parts[name] = lambda model=model: self._our_part(model)  # type: ignore[misc]
            torch.manual_seed(0)
            self.student_alone()
            if self.head in _LOGIT_LAYERS:
                teacher = copy.deepcopy(self.teacher)
                parts["mmrazor"] = lambda: _whole_loss(teacher, self.inputs, self.samples)
            yield parts

    def _our_part(self, model: Any) -> dict:
        with torch.no_grad():
            feats = model.distiller.extract_teacher_feat(model.teacher, self.inputs)
        return model.distiller.compute_distill_losses(feats, self.samples)

    def student_alone(self) -> Tensor:
        """Plain MMDetection."""
        return total(self.student(self.inputs, self.samples, mode="loss"))

    def bare_teacher(self) -> Callable[[], object]:
        """The teacher's bare forward: its features, and its whole head on the student's rows."""
        teacher = self.teacher
        if self.head not in ("StandardRoIHead", "CascadeRoIHead"):
            return torch.no_grad()(lambda: teacher(self.inputs, self.samples, mode="tensor"))
        rois = self._student_rois()

        def forward() -> None:
            feats = teacher.extract_feat(self.inputs)
            for stage, boxes in enumerate(rois):
                args = (feats, boxes) if len(rois) == 1 else (stage, feats, boxes)
                teacher.roi_head._bbox_forward(*args)

        return torch.no_grad()(forward)

    def _student_rois(self) -> list[Tensor]:
        rois: list[Tensor] = []
        with TapSet() as taps:
            for stage in RCNNAdapter.by_stage(self.student.roi_head.bbox_roi_extractor):
                taps.add(stage, lambda args, kwargs, output: rois.append(args[1]))
            torch.manual_seed(0)
            self.student_alone()
        return rois

    def ours(self, **options: Any) -> Step:
        """ReKDDistill with options of the teacher."""
        return self.algorithm(**options).total_loss

    def algorithm(self, **options: Any) -> Any:
        """ReKDDistill itself, with a method ``total_loss()``."""
        cfg = dict(
            type="mmrazor.ReKDDistill",
            architecture=self.student,
            teacher=copy.deepcopy(self.teacher),
            distiller=copy.deepcopy(self.distiller),
        )
        model = MODELS.build(cfg | options).train()
        model.total_loss = lambda: total(model(self.inputs, self.samples, mode="loss"))
        return model

    def mmrazor(self) -> Step:
        """MMRazor's own way: the teacher's whole loss, and the logits of both recorded by the layer's name.

        In an R-CNN each network then samples RoIs of its own: row n of the one has nothing to do with row n of the
        other. It is here for its cost.
        """
        layer, calls = _LOGIT_LAYERS[self.head]
        recorder = dict(logits=dict(type="ModuleOutputs", source=layer))
        names = [f"loss_kl{i}" for i in range(calls)]
        cfg = dict(
            type="SingleTeacherDistill",
            architecture=copy.deepcopy(self.student),
            teacher=copy.deepcopy(self.teacher),
            distiller=dict(
                type="ConfigurableDistiller",
                student_recorders=recorder,
                teacher_recorders=copy.deepcopy(recorder),
                distill_losses={n: dict(type="KLDivergence") for n in names},
                loss_forward_mappings={
                    n: {
                        arg: dict(from_student=arg == "preds_S", recorder="logits", record_idx=i)
                        for arg in ("preds_S", "preds_T")
                    }
                    for i, n in enumerate(names)
                },
            ),
        )
        # MMRazor looks its recorders up in the default scope; the detectors are built already.
        with DefaultScope.overwrite_default_scope("mmrazor"):
            model = RAZOR_MODELS.build(cfg)
        model.train()
        return lambda: total(model(self.inputs, self.samples, mode="loss"))

    def head_twice(self) -> Tensor:
        """RetinaNet as CrossKD and mdistiller do it: the student's head runs once for its losses and once for the
        distillation, the teacher's runs whole."""
        feats = self.student.extract_feat(self.inputs)
        losses = self.student.bbox_head.loss(feats, self.samples)
        own = self.student.bbox_head(feats)[0]
        with torch.no_grad():
            other = self.teacher.bbox_head(self.teacher.extract_feat(self.inputs))[0]
        for i, (s, t) in enumerate(zip(own, other, strict=True)):
            target = t.sigmoid()
            bce = F.binary_cross_entropy_with_logits(s, target, reduction="none")
            losses[f"loss_kd{i}"] = (bce * (s.sigmoid() - target).detach().abs()).sum() / 100
        return total(losses)


def total(losses: Mapping) -> Tensor:
    """The scalar that mmengine would minimise."""
    values = [v for k, vs in losses.items() if "loss" in k for v in (vs if isinstance(vs, list) else [vs])]
    return torch.stack([v.sum() for v in values]).sum()


@torch.no_grad()
def _whole_loss(teacher: Any, inputs: Tensor, samples: list) -> None:
    torch.manual_seed(0)
    teacher(inputs, samples, mode="loss")


def _random_detector(spec: Mapping, seed: int) -> Any:
    config = resolve_model_config(spec)
    drop_pretrained(config)
    return build_random(config, seed)
