"""The interface of head adapters, and the table of adapters by head."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from mmdet.models.dense_heads import ATSSVLFusionHead, GroundingDINOHead
from mmdet.registry import MODELS
from torch import Tensor, nn

from rekd_det.models.utils.taps import TapSet
from rekd_det.structures.aligned_logits import AlignedLogits
from rekd_det.structures.logit_meaning import LogitMeaning

#: head class -> adapter class; filled by :func:`register_adapter`
ADAPTERS: dict[type[nn.Module], type[HeadAdapter]] = {}

#: where a detector keeps the head that classifies, in the order they are looked for
HEAD_ATTRIBUTES = ("roi_head", "bbox_head", "panoptic_head", "mask_head", "head")

#: heads that can't be distilled, and why: the text continues "Head is not supported: " in the error for such a pair
REFUSED_HEADS: dict[type[nn.Module], str] = {
    head: f"its logits compare {rows} with the words of a prompt: there are no fixed classes"
    for head, rows in ((ATSSVLFusionHead, "regions"), (GroundingDINOHead, "queries"))
}

#: adapters for the heads of packages that need not be installed, by the package
_OPTIONAL = {"mmpretrain": "rekd_det.models.adapters.image"}


class HeadAdapter(ABC):
    """Knows one family of heads: which rows reach its classification loss, and how a teacher classifies the same rows.

    One adapter serves one pair. It is used once per step, in this order: :meth:`tap` before the student's forward,
    :meth:`align` after it, both inside the same :class:`TapSet` block, then :meth:`clear`.

    Args:
        student: the student's head.
        teacher: the teacher's head, frozen and in eval mode.

    Raises:
        ValueError: if the two heads are incompatible.
    """

    #: how this family usually turns logits into probabilities; :attr:`meaning` says it of a pair
    activation: str = "softmax"
    #: what a row of this family is, for the log and the table of supported heads
    row_description: str = "rows of the classification loss"
    #: why rows have no class index as their label, in words; None if they have one
    no_labels: str | None = None

    def __init__(self, student: Any, teacher: Any) -> None:
        self.student = student
        self.teacher = teacher

    def bind(self, student: nn.Module, teacher: nn.Module) -> None:  # noqa: B027 - most heads need nothing of it
        """Get what the classification needs from the detectors around the heads; called once, before the first step.

        Args:
            student: the student detector.
            teacher: the teacher detector, e.g. because its transformer is there and not in its head.

        Raises:
            ValueError: if the two detectors are incompatible.
        """

    @classmethod
    def pairs_with(cls, teacher: type[HeadAdapter]) -> bool:
        """Whether heads of the adapter ``teacher`` can teach those of this adapter; layouts are checked later."""
        return teacher is cls

    def extract_feat(self, teacher: Any, inputs: Tensor) -> Sequence[Tensor]:
        """The teacher detector's feature maps of a batch ``(B, 3, H, W)``, as :meth:`align` wants them."""
        return teacher.extract_feat(inputs)

    @property
    @abstractmethod
    def num_logits(self) -> int:
        """C, the logits per row (background included where the head has one)."""

    @property
    def meaning(self) -> LogitMeaning:
        """What the logits of both heads mean; by default what MMDetection's heads mean by :attr:`activation`."""
        return LogitMeaning.usual(self.activation, self.num_logits)

    @abstractmethod
    def tap(self, taps: TapSet) -> None:
        """Add the taps that record the student's rows."""

    @abstractmethod
    def align(self, teacher_feats: Sequence[Tensor], data_samples: list) -> list[AlignedLogits]:
        """Classify the recorded rows with the teacher's head.

        Args:
            teacher_feats: the teacher's own ``extract_feat`` output, one ``(B, c, h, w)`` map per level.
            data_samples: the batch's ``DetDataSample``s.

        Returns:
            One entry per classification head (per stage, per level or per decoder layer). Called without gradient.
        """

    @abstractmethod
    def clear(self) -> None:
        """Forget what was recorded, so that no tensor outlives its step."""

    def check_box_bins(self) -> int:
        """How many bins each side of a box has, for ``model.distiller.box_loss``.

        Raises:
            ValueError: if one of the heads gives its boxes in another form, or the two heads have other bins.
        """
        raise ValueError(self._no_bins(self.student))

    def align_boxes(self, teacher_feats: Sequence[Tensor], aligned: Sequence[AlignedLogits]) -> AlignedLogits:
        """The distributions of the recorded positive rows' boxes, for heads with :meth:`check_box_bins`.

        Args:
            teacher_feats: as for :meth:`align`.
            aligned: what :meth:`align` gave in this step.

        Returns:
            One row for each side of each positive row's box, with the logits of its bins, ``tag='box'``, and as its
            weight the teacher's quality of the positive row. Called without gradient.
        """
        raise NotImplementedError

    @staticmethod
    def _no_bins(head: nn.Module) -> str:
        bare = HeadAdapter.check_box_bins
        able = sorted(c.__name__ for c, a in ADAPTERS.items() if a.check_box_bins is not bare)
        return (
            f"{type(head).__name__} gives no distribution over bins for the sides of a box (it has no reg_max), so "
            f"there is none to distil. Leave the key out, or take a pair of these heads: {', '.join(able)}"
        )

    @property
    def num_classes(self) -> int | None:
        """Foreground classes; None if the head does not say."""
        return getattr(self.student, "num_classes", None)

    def describe(self) -> str:
        """One line for the log: which heads are paired, and over what."""
        classes = "" if self.num_classes is None else f"{self.num_classes} classes, "
        return (
            f"{type(self.student).__name__} <- {type(self.teacher).__name__}, "
            f"rows: {self.row_description}, {classes}{self.num_logits} logits per row, {self.meaning.activation}"
        )


def register_adapter(
    *heads: type[nn.Module] | str,
) -> Callable[[type[HeadAdapter]], type[HeadAdapter]]:
    """Class decorator: let an adapter serve these head classes (exactly these, not their subclasses).

    Args:
        heads: head classes, or their names in MMDetection's ``MODELS`` registry.
    """

    def enter(adapter: type[HeadAdapter]) -> type[HeadAdapter]:
        for head in heads:
            cls = MODELS.get(head) if isinstance(head, str) else head
            if cls is None:
                raise KeyError(f"{adapter.__name__}: MMDetection has no head named {head!r}")
            ADAPTERS[cls] = adapter
        return adapter

    return enter


def classification_head(detector: nn.Module) -> nn.Module:
    """The module of a detector that owns its classification loss: RoI head, dense head or query head.

    Raises:
        TypeError: if the detector has none.
    """
    for name in HEAD_ATTRIBUTES:
        head = getattr(detector, name, None)
        if isinstance(head, nn.Module):
            return head
    raise TypeError(
        f"{type(detector).__name__} has no classification head: none of "
        f"{', '.join('.' + n for n in HEAD_ATTRIBUTES)} is a module"
    )


def build_adapter(student: nn.Module, teacher: nn.Module) -> HeadAdapter:
    """The adapter for a pair of detectors.

    Args:
        student: the student detector.
        teacher: the teacher detector.

    Raises:
        TypeError: if no adapter was written for one of the heads, or the two belong to different adapters.
        ValueError: if the heads are incompatible.
    """
    heads = [classification_head(d) for d in (student, teacher)]
    built = find_adapter(type(heads[0]), type(heads[1]))(*heads)
    built.bind(student, teacher)
    return built


def find_adapter(student: type[nn.Module], teacher: type[nn.Module]) -> type[HeadAdapter]:
    """The adapter for a pair of head classes; whether the rows of two such heads correspond is checked later.

    Args:
        student: the class of the student's head.
        teacher: the class of the teacher's head.

    Raises:
        TypeError: if no adapter was written for one of the heads, or the two belong to different adapters.
    """
    _register_optional((student, teacher))
    for role, head in (("student", student), ("teacher", teacher)):
        if head not in ADAPTERS:
            raise TypeError(f"the {role}'s {head.__name__} is not supported{_way_out(head)}")
    found = ADAPTERS[student]
    if not found.pairs_with(ADAPTERS[teacher]):
        raise TypeError(
            f"the student's {student.__name__} and the teacher's {teacher.__name__} classify "
            "different kinds of rows, so no row of one corresponds to a row of the other. Take a teacher whose "
            f"head is one of: {', '.join(sorted(c.__name__ for c, a in ADAPTERS.items() if found.pairs_with(a)))}"
        )
    return found


def _way_out(head: type[nn.Module]) -> str:
    """Why a head has no adapter, or what its author can do, as the rest of a sentence."""
    if head in REFUSED_HEADS:
        return f": {REFUSED_HEADS[head]}"
    parent = next((base.__name__ for base in head.__mro__ if base in ADAPTERS), None)
    # MMDetection's own heads without an adapter classify other things than their parents.
    if parent is None or head.__module__.startswith("mmdet."):
        return (
            f". Supported heads: {', '.join(sorted(c.__name__ for c in ADAPTERS))}. To add one, write a HeadAdapter "
            "for it and register it with rekd_det.models.adapters.register_adapter (docs/new_detector.md)"
        )
    return (
        f". It derives from {parent}: if it classifies the same rows in the same way, put "
        f"`register_adapter({head.__name__})(ADAPTERS[{parent}])` below the class, with both names "
        "from rekd_det.models.adapters; otherwise write an adapter (docs/new_detector.md)"
    )


def _register_optional(heads: Sequence[type[nn.Module]]) -> None:
    """Import the adapters for heads of optional packages; a head that is there shows that its package is."""
    for base in {base for head in heads for base in head.__mro__}:
        module = _OPTIONAL.get(base.__module__.partition(".")[0])
        if module is not None:
            importlib.import_module(module)


def check_same_classes(owner: str, student: int, teacher: int) -> None:
    """Raise ValueError unless both heads know the same number of classes."""
    if student != teacher:
        raise ValueError(
            f"{owner}: the student has num_classes={student}, the teacher num_classes={teacher}; logits of "
            "different categories can't be compared. Set num_classes of model.architecture to the teacher's, "
            "or take a teacher trained on the student's categories"
        )
