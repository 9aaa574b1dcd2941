"""ReKDDistiller: computes the distillation losses from the rows of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import ModuleDict
from mmrazor.models.distillers import BaseDistiller
from mmrazor.registry import MODELS
from torch import Tensor, nn

from rekd_det.models.adapters import HeadAdapter, build_adapter
from rekd_det.models.distillers.agreement import top1_agreement
from rekd_det.models.distillers.loss_config import (
    BOX_LOSS,
    LOSS,
    about,
    build_box_loss,
    build_loss,
    build_loss_for_any_head,
)
from rekd_det.models.distillers.row_weighting import ROWS, check_rows_have_scores, row_weight
from rekd_det.models.losses import LogitLoss
from rekd_det.models.losses.feature_loss import FeatureLoss
from rekd_det.models.teachers.lean import LeanRun
from rekd_det.models.utils.feature_tap import FeatureTap
from rekd_det.models.utils.finite_guard import FiniteGuard
from rekd_det.models.utils.taps import TapSet
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.utils.errors import InputError
from rekd_det.utils.log_names import is_loss


@MODELS.register_module()
class ReKDDistiller(BaseDistiller):
    """Distils classification logits on the rows that the student's own head classifies.

    Args:
        loss: config of a :class:`rekd_det.models.losses.LogitLoss`, e.g. ``dict(type='mmrazor.ReKDLoss', top_k=5)``.
            Where it sets no ``activation``, the head's own is used. None leaves the classification out; with
            ``feature_losses`` alone the heads need no adapter.
        feature_losses: losses on feature maps by name, see :class:`rekd_det.models.losses.FeatureLoss`, e.g.
            ``dict(loss_pkd=dict(type='mmrazor.PKDLoss', loss_weight=6.0, levels=[0, 1, 2, 3]))``.
        rows: which rows count in ``loss``, and how much: 'all', 'object' or 'teacher', see
            :func:`rekd_det.models.distillers.row_weighting.row_weight`.
        box_loss: config of a :class:`rekd_det.models.losses.LogitLoss` for heads that give each side of a box as a
            distribution over bins (``GFLHead``, ``LDHead``), e.g. ``dict(type='mmrazor.ReKDLoss', top_k=4)``; its
            categories are the bins. Classical KD of the bins, ``dict(type='mmrazor.KDLoss', tau=10.0)``, is
            localisation distillation (LD, Zheng et al., CVPR 2022). The rows are the four sides of the student's
            positive rows, each weighted by the teacher's quality of the row (its largest class probability), and the
            sum is divided by four times the sum of the qualities (its mean over the processes, at least 1). None
            leaves the boxes out.
        init_cfg: as in mmengine's ``BaseModule``.

    Raises:
        ValueError, TypeError: for a loss that can't be built, or that does not fit the pair's heads.
    """

    def __init__(
        self,
        loss: dict | None,
        feature_losses: Mapping | None = None,
        rows: str = "all",
        box_loss: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if rows not in ROWS:
            raise ValueError(f"model.distiller.rows must be one of {', '.join(map(repr, ROWS))}, got {rows!r}")
        self.row_weighting = rows
        if not isinstance(loss, dict) and not (loss is None and (feature_losses or box_loss)):
            raise TypeError(
                f"{LOSS} must be a config dict (or None with feature_losses or box_loss), got {type(loss).__name__}"
            )
        if loss is None and rows != "all":
            raise ValueError(f"model.distiller.rows={rows!r} weighs the rows of {LOSS}, which is None: leave it out")
        self._loss_cfg = None if loss is None else dict(loss)
        self.loss = None if self._loss_cfg is None else build_loss_for_any_head(self._loss_cfg)
        self.box_loss = None if box_loss is None else build_box_loss(box_loss)
        if not isinstance(feature_losses or {}, Mapping):
            raise TypeError(
                "model.distiller.feature_losses must be a dict of losses by name, e.g. "
                f"dict(loss_pkd=dict(type='mmrazor.PKDLoss')), got {type(feature_losses).__name__}"
            )
        #: trained with the student where they have connectors
        self.feature_losses = ModuleDict({n: FeatureLoss(n, c) for n, c in (feature_losses or {}).items()})
        self._features: FeatureTap | None = None
        #: factor on all distillation losses; DistillWarmupHook changes it
        self.scale = 1.0
        self.adapter: HeadAdapter | None = None
        #: how the teacher is run
        self.lean = LeanRun()
        self._student: list[nn.Module] = []
        self._finite = FiniteGuard()
        self._told_rows = False
        self._device = torch.device("cpu")  # of the step

    def prepare_from_student(self, model: nn.Module) -> None:
        """Keep the student until the teacher is known (called by MMRazor's algorithm)."""
        self._student = [model]  # a list, so that the student does not become a submodule

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Pair the detectors; of their heads, everything that does not fit is raised here, before training."""
        student = self._student.pop()
        if self.feature_losses:
            self._features = FeatureTap(student)
            print_log(f"feature distillation: {', '.join(self.feature_losses)}", logger="current")
        if self.loss is None and self.box_loss is None:
            return
        self.adapter = build_adapter(student, model)
        if self.loss is not None:
            self._fit_loss(self.adapter)
        print_log(f"ReKD pairs {self.adapter.describe()}; {self.loss}", logger="current")
        if self.box_loss is not None:
            with about(BOX_LOSS):
                bins = self.adapter.check_box_bins()
                self.box_loss.check_num_logits(bins)
            print_log(f"ReKD pairs the boxes' {bins} bins of each side; {self.box_loss}", logger="current")

    def _fit_loss(self, adapter: HeadAdapter) -> None:
        assert self._loss_cfg is not None and self.loss is not None
        head, meaning = type(adapter.student).__name__, adapter.meaning
        if "activation" not in self._loss_cfg:
            with about(f"{LOSS}: {head} classifies by {meaning.activation}"):
                self.loss = build_loss({**self._loss_cfg, "activation": meaning.activation})
        check_rows_have_scores(self.row_weighting, meaning, head)
        if meaning.activation == "softmax" and self.loss.activation != "softmax":
            raise ValueError(
                f"{LOSS}.activation={self.loss.activation!r}: {head} classifies by a softmax over its "
                f"{adapter.num_logits} logits, so read with {self.loss.activation!r} they are not probabilities. Leave "
                "the key out, and the head's own activation is used"
            )
        self.loss.read_meaning(meaning)
        with about(LOSS):
            self.loss.check_num_logits(adapter.num_logits)
        if adapter.no_labels is None:
            return
        for wanted, name in (
            (self.loss.needs_labels, f"{LOSS}: {type(self.loss).__name__}"),
            (self.row_weighting == "object", "model.distiller.rows='object'"),
        ):
            if wanted:
                raise ValueError(
                    f"{name} needs one label for each row, and there is none: {adapter.no_labels}. KDLoss, GDKDLoss "
                    "and ReKDLoss need no labels, and rows='all' none either"
                )

    @contextmanager
    def step(self) -> Iterator[None]:
        """Taps on the student for one step; they and what they recorded are removed afterwards, also after an error."""
        tapped = [x for x in (self.adapter, self._features) if x is not None]
        if not tapped:
            raise RuntimeError("ReKDDistiller works inside ReKDDistill, which pairs it with the detectors")
        try:
            with TapSet() as taps:
                for x in tapped:
                    x.tap(taps)
                yield
        finally:
            for x in tapped:
                x.clear()

    def extract_teacher_feat(self, teacher: Any, inputs: Tensor) -> Sequence[Tensor]:
        """The teacher's feature maps of a batch ``(B, 3, H, W)`` that is normalised for it."""
        self.lean.begin()
        inputs = self.lean.images(inputs)
        self._device = inputs.device
        with self.lean.precision(inputs.device):
            if self.adapter is None:
                return self.lean.maps(teacher.extract_feat(inputs))
            return self.lean.maps(self.adapter.extract_feat(teacher, inputs))

    @torch.no_grad()
    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        """The teacher's classification logits beside the student's, head by head, without gradient.

        Args:
            teacher_feats: of :meth:`extract_teacher_feat`; arguments and place as in :meth:`compute_distill_losses`.
            data_samples: the batch's ``DetDataSample``s.
        """
        assert self.adapter is not None
        with self.lean.precision(self._device):
            return self.adapter.align(teacher_feats, data_samples)

    def compute_distill_losses(self, teacher_feats: Sequence[Tensor], data_samples: list) -> dict[str, Tensor]:
        """The losses of the step, by name; called inside :meth:`step`, after the student's forward.

        Args:
            teacher_feats: the teacher's feature maps of this batch, one ``(B, c, h, w)`` per level.
            data_samples: the batch's ``DetDataSample``s.

        Returns:
            ``loss_*`` scalars to minimise, and detached statistics whose names lack "loss". With several heads (stages)
            the names start with the head's tag: 's0.loss_tisd'.
        """
        rows: list[tuple[LogitLoss, str, AlignedLogits]] = []
        if self.adapter is not None:
            classes = self.align(teacher_feats, data_samples)
            if self.loss is not None:
                rows += [(self.loss, self.row_weighting, entry) for entry in classes]
            if self.box_loss is not None:
                with torch.no_grad(), self.lean.precision(self._device):
                    rows.append((self.box_loss, "all", self.adapter.align_boxes(teacher_feats, classes)))
        aligned = [entry for *_, entry in rows]
        if not self._told_rows and self.adapter is not None:
            self._told_rows = True
            counts = ", ".join(f"{e.tag or 'head'}: {e.num_rows} rows, weight {e.loss_weight:g}" for e in aligned)
            print_log(f"ReKD's first step distils {counts or 'no rows'}", logger="current")
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        for loss, weighting, entry in rows:
            prefix = f"{entry.tag}." if entry.tag else ""
            parts, values = self._components(loss, weighting, entry)
            for name, part in parts.items():
                key = prefix + name
                if key in losses:
                    raise InputError(
                        f"{type(self.adapter).__name__} gave two sets of rows tag={entry.tag!r}, so '{key}' of one "
                        "would replace that of the other: give each a tag of its own"
                    )
                if not is_loss(key):
                    raise InputError(
                        f"{type(loss).__name__} has a part '{name}', which would be logged and not minimised: its "
                        "name must contain 'loss'"
                    )
                losses[key] = part * (entry.loss_weight * self.scale)
            statistics |= {prefix + name: value for name, value in values.items()}
            agreement = top1_agreement(entry) if loss is self.loss else None
            if agreement is not None:
                statistics[f"{prefix}agreement"] = agreement
        if self._features is not None:
            for name, feature_loss in self.feature_losses.items():
                if name in losses:
                    raise InputError(
                        f"{feature_loss.key}: {type(self.loss or self.box_loss).__name__} has a part of that name, "
                        "which it would replace in the log and in the sum; choose another name"
                    )
                losses[name] = feature_loss(self._features.maps, teacher_feats) * self.scale
        if losses:
            self._finite.check(torch.stack([v.detach() for v in losses.values()]).sum(), aligned)
        return losses | statistics

    def failed(self) -> bool:
        """Whether the loss of the last step was NaN or infinite, so that the run must end; waits for the GPU."""
        return self._finite.failed()

    def idle_losses(self) -> dict[str, Tensor]:
        """What a step without distillation needs: zeros attached to the trained connectors, which DDP waits for."""
        return {name: loss.idle() for name, loss in self.feature_losses.items() if any(True for _ in loss.parameters())}

    @staticmethod
    def _components(
        loss: LogitLoss, weighting: str, entry: AlignedLogits
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        # A loss that is one value per row can go through the levels one by one, without a copy of them all.
        levels = [entry] if loss.compares_rows else entry.levels()
        total: dict[str, Tensor] = {}
        means: dict[str, list[Tensor]] = {}
        counts: list[Tensor | float] = []
        for level in levels:
            avg_factor = level.avg_factor if loss.reduction == "mean" else None
            weight = row_weight(level, weighting)
            parts, values = loss.components(level.student, level.teacher, weight, avg_factor, level.labels)
            total = {name: total[name] + part if total else part for name, part in parts.items()}
            if len(levels) == 1:
                return parts, values
            counts.append(float(level.num_rows) if weight is None else weight.sum().float())
            for name, value in values.items():
                means.setdefault(name, []).append(value * counts[-1])
        rows = torch.as_tensor(sum(counts)).clamp(min=torch.finfo(torch.float32).eps)
        return total, {name: torch.stack(of).sum() / rows for name, of in means.items()}
