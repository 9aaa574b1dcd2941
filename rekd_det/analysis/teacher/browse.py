"""One image as ground truth, teacher and student see it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from rekd_det.analysis.teacher.box_scores import MIN_SCORE, TeacherScores
from rekd_det.analysis.utils.figures import COLOURS, new_figure

#: boxes in one panel; more would be illegible
MAX_BOXES = 15


@dataclass
class Panel:
    """Boxes of one source, highest score first.

    Args:
        title: whose boxes they are.
        boxes: ``(n, 4)`` x1, y1, x2, y2 in pixels of the image shown.
        names: category per box, with its score where it has one.
        heads: what the teacher says about each box, in words.
        hidden: number of boxes that were left out because there is no room for them.
    """

    title: str
    boxes: np.ndarray
    names: list[str]
    heads: list[str]
    hidden: int = 0


def look(model: Any, data: dict, names: list[str], top_k: int, min_score: float) -> list[Panel]:
    """The panels of one image: ground truth, teacher, student.

    Args:
        model: a :class:`rekd_det.models.algorithms.ReKDDistill`.
        data: a preprocessed batch of one image.
        names: the categories.
        top_k: how many categories of the teacher are listed per box.
        min_score: detections below it are left out.
    """
    inputs, sample = data["inputs"], data["data_samples"][0]
    with torch.no_grad():
        teacher_inputs = model._teacher_input(inputs, [sample])
        feats = model.distiller.extract_teacher_feat(model.teacher, teacher_inputs)
        student = _detect(model.student, inputs, sample)
        teacher = _detect(model.teacher, teacher_inputs, sample)
        truth = sample.gt_instances
        sources = [("ground truth", get_box_tensor(truth.bboxes), truth.labels, None)]
        for title, found in (("teacher", teacher), ("student", student)):
            found = found[found.scores >= min_score]
            found = found[found.scores.argsort(descending=True)]
            sources.append((title, get_box_tensor(found.bboxes), found.labels, found.scores))
        ask = TeacherScores(model, feats, sample)
        return [
            _panel(title, boxes, labels, scores, names, top_k, ask(boxes[:MAX_BOXES]))
            for title, boxes, labels, scores in sources
        ]


def draw(image: np.ndarray, panels: list[Panel], title: str) -> Figure:
    """The panels side by side, and under each the teacher's scores of its boxes.

    Args:
        image: uint8 RGB ``(H, W, 3)``, as the detectors see it.
        panels: what :func:`look` found.
        title: text above the panels.
    """
    height, width = image.shape[:2]
    column = 5.2
    picture = min(column * height / width, 7.0)
    lines = max(2, *(len(p.names) + (p.hidden > 0) for p in panels))
    text = 0.36 * lines + 0.1
    figure, axes = new_figure(
        column * len(panels), picture + text + 0.7, len(panels), 2, gridspec_kw={"height_ratios": [picture, text]}
    )
    figure.suptitle(title)
    for panel, above, below in zip(panels, axes, axes[len(panels) :], strict=False):
        above.imshow(image)
        above.set_title(panel.title)
        for axis in (above, below):
            axis.axis("off")
        for box, numbers in _by_place(panel.boxes):
            _draw_box(above, box, numbers)
        _list_heads(below, panel, text)
    return figure


def _detect(detector: Any, inputs: Tensor, sample: Any) -> Any:
    training = {m: m.training for m in detector.modules()}
    detector.eval()
    try:
        return detector.predict(inputs, [copy.deepcopy(sample)], rescale=False)[0].pred_instances
    finally:
        for module, mode in training.items():
            module.training = mode


def _panel(
    title: str,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor | None,
    names: list[str],
    top_k: int,
    said: Tensor | None,
) -> Panel:
    shown = boxes[:MAX_BOXES]
    captions = [names[int(label)] for label in labels[:MAX_BOXES]]
    if scores is not None:
        captions = [f"{c} {float(s):.2f}" for c, s in zip(captions, scores, strict=False)]
    heads = ["" for _ in captions] if said is None else [_words(row, names, top_k) for row in said]
    return Panel(title, shown.cpu().numpy(), captions, heads, len(boxes) - len(shown))


def _words(scores: Tensor, names: list[str], top_k: int) -> str:
    values, index = scores.topk(min(top_k, len(scores)))
    named = [names[int(i)] if i < len(names) else "background" for i in index]
    listed = [f"{n} {float(v):.2f}" for n, v in zip(named, values, strict=True) if v >= MIN_SCORE]
    return ", ".join(listed) or "no candidate near this box"


def _by_place(boxes: np.ndarray) -> list[tuple[np.ndarray, list[int]]]:
    """Boxes with the indices of all that lie on the same pixels: a detector may give one box several categories."""
    places: dict[tuple, list[int]] = {}
    for number, box in enumerate(boxes):
        places.setdefault(tuple(np.round(box)), []).append(number)
    return [(boxes[numbers[0]], numbers) for numbers in places.values()]


def _draw_box(axis: Any, box: np.ndarray, numbers: list[int]) -> None:
    colour = COLOURS[numbers[0] % len(COLOURS)]
    x1, y1, x2, y2 = box
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.6))
    badge = dict(facecolor=colour, edgecolor="none", pad=1.2)
    text = ", ".join(str(n + 1) for n in numbers)
    axis.text(x1, y1, text, color="white", fontsize=8, va="bottom", bbox=badge, clip_on=False)


def _list_heads(axis: Any, panel: Panel, inches: float) -> None:
    step = 0.36 / inches
    if not panel.names:
        axis.text(0, 1, "no box", va="top", fontsize=8, transform=axis.transAxes)
    for number, (name, head) in enumerate(zip(panel.names, panel.heads, strict=True)):
        y = 1 - number * step
        colour = COLOURS[number % len(COLOURS)]
        axis.text(
            0, y, f"{number + 1}  {name}", color=colour, weight="bold", va="top", fontsize=8.5, transform=axis.transAxes
        )
        if head:
            axis.text(0.04, y - 0.45 * step, f"teacher: {head}", va="top", fontsize=7.5, transform=axis.transAxes)
    if panel.hidden:
        y = 1 - len(panel.names) * step
        axis.text(0, y, f"and {panel.hidden} more", va="top", fontsize=8, transform=axis.transAxes)
