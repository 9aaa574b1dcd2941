"""Files of a :class:`rekd_det.analysis.teacher.head_tail.HeadTail`: CSV, PNG and one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rekd_det.analysis.teacher.category_terms import HEADER
from rekd_det.analysis.teacher.head_tail import TARGET_MASS, HeadTail
from rekd_det.analysis.teacher.heads import cluster_order, strongest_pairs
from rekd_det.analysis.teacher.mass import MassStats, larger_tail
from rekd_det.analysis.teacher.mass_figures import label_figure, mass_figure, tail_figure
from rekd_det.analysis.teacher.matrix_figure import matrix_figure
from rekd_det.analysis.teacher.rows import MAX_BACKGROUND
from rekd_det.analysis.utils import html
from rekd_det.analysis.utils.figures import save
from rekd_det.analysis.utils.tables import write_csv

_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_PAIRS = 20


def write_report(found: HeadTail, folder: Path, about: Sequence[str]) -> Path:
    """Write ``report.html``, and its numbers and pictures as separate files.

    Args:
        found: what was measured.
        folder: where; it must exist.
        about: sentences that say what was measured (config, images).

    Returns:
        The path of the report.
    """
    write_csv(folder / "head_mass.csv", *_mass_table(found))
    body = [html.paragraph(" ".join(about)), html.paragraph(suggestion_text(found), note=True)]
    for judge in found.judges:
        body += _judge_section(found, judge, folder)
    body += _terms_section(found, folder)
    body += _matrix_section(found, folder)
    body += _explanation(found)
    report = folder / "report.html"
    report.write_text(html.page("Top-K set and tail of the teacher", body), encoding="utf-8")
    return report


def suggestion_text(found: HeadTail) -> str:
    """The suggested K and the rule behind it, in words."""
    suggestion = found.suggest()
    if suggestion is None:
        return "No row was found, so no K can be suggested."
    if found.max_k == 1:
        return "K is 1: with two logits, no other K leaves a tail."
    rule = (
        f"Rule: the smallest K >= 2 whose top-K set holds on average {TARGET_MASS:.0%} of the teacher's probability on "
        f"the rows '{suggestion.group}'. It is a starting point for a search and does not promise the best AP."
    )
    if suggestion.reached:
        return f"Suggested K: {suggestion.top_k} (mean mass of the top-K set {suggestion.mass:.3f}). {rule}"
    return (
        f"No K up to {found.max_k} reaches {TARGET_MASS:.0%}: the teacher's probabilities are flat (mean mass of the "
        f"top-K set {suggestion.mass:.3f} at K = {suggestion.top_k}). Is it trained, and on these categories? {rule}"
    )


def comparison_text(groups: dict[str, MassStats], kind: str, top_k: int) -> str | None:
    """Compare easy and hard rows of a kind ('object', 'background') in words; None if one of the groups is empty."""
    easy, hard = groups.get(f"{kind}, easy"), groups.get(f"{kind}, hard")
    if easy is None or hard is None:
        return None
    k = min(top_k, easy.max_k) - 1
    more = larger_tail(hard, easy, k + 1)
    return (
        f"{kind} rows at K = {k + 1}: the tail's share 1 - P is on average {easy.mean_tail[k]:.2e} on easy and "
        f"{hard.mean_tail[k]:.2e} on hard rows. In {more:.0%} of random pairs of an easy and a hard row, the hard one "
        f"has the larger share (50%: no difference). Without its first category, the top-K set holds "
        f"{easy.mean_head[k] - easy.mean_head[0]:.3f} of the probability on easy and "
        f"{hard.mean_head[k] - hard.mean_head[0]:.3f} on hard rows."
    )


def _judge_section(found: HeadTail, judge: str, folder: Path) -> list[str]:
    groups, k = found.groups(judge), found.top_k
    if not groups:
        return []
    body = [html.heading(f"Easy and hard rows, judged by the {judge}")]
    for kind in ("object", "background"):
        text = comparison_text(groups, kind, k)
        if text is not None:
            body.append(html.paragraph(text[0].upper() + text[1:]))
    if judge == "teacher":
        body.append(
            html.paragraph(
                "The teacher judges its own rows here. Where it is wrong, it also tends to be uncertain, so part of "
                "the difference is built in. The student as the judge (--checkpoint) does not have this bias."
            )
        )
    body.append(
        html.picture(
            save(mass_figure(groups, k), folder / f"head_mass_{judge}.png"),
            "Mass P of the top-K set by K: the line is the median row, the band covers the middle 80% of the rows.",
        )
    )
    body.append(
        html.picture(
            save(tail_figure(groups, k), folder / f"tail_share_{judge}.png"),
            "The tail's share 1 - P. Left: mean by K. Right: its distribution.",
        )
    )
    label = label_figure(groups, k)
    if label is not None:
        path = save(label, folder / f"label_in_head_{judge}.png")
        body.append(html.picture(path, "How often the row's own label is in the top-K set."))
    body.append(html.table(*_summary(groups, k)))
    return body


def _summary(groups: dict[str, MassStats], top_k: int) -> tuple[list[str], list[list[str]]]:
    header = [
        "rows",
        "number",
        f"mean P (K={top_k})",
        "P: 10%",
        "median",
        "90%",
        f"mean 1 - P (K={top_k})",
        "label in top-K set",
    ]
    rows = []
    for name, stats in groups.items():
        k = min(top_k, stats.max_k) - 1
        low, median, high = (stats.quantile(q)[k] for q in (0.1, 0.5, 0.9))
        label = f"{stats.label_share[k]:.3f}" if stats.labelled else "-"
        numbers = [f"{x:.4f}" for x in (low, median, high)]
        rows.append(
            [name, f"{stats.rows:,}", f"{stats.mean_head[k]:.4f}", *numbers, f"{stats.mean_tail[k]:.2e}", label]
        )
    return header, rows


def _terms_section(found: HeadTail, folder: Path) -> list[str]:
    lines = found.terms.table() if found.terms is not None else []
    if not lines:
        return []
    write_csv(folder / "category_terms.csv", HEADER, lines)
    return [
        html.heading("What KD of this head consists of, by category"),
        html.paragraph(
            f"Means over the rows of each label, at K = {found.top_k}. A is the teacher's probability that some "
            "category of the tail is present. KD is TISD + A x NTID, and ReKD replaces A by beta. TISD and NTID are "
            "those of this student: use --checkpoint for a trained one."
        ),
        html.table(HEADER, lines),
    ]


def _matrix_section(found: HeadTail, folder: Path) -> list[str]:
    matrix = found.matrix
    if not matrix.rows.any():
        return []
    frequency, names = matrix.frequency, found.names
    order = cluster_order(frequency[:, : len(names)])
    columns = [*order, *range(len(names), frequency.shape[1])]
    named = [names[c] if c < len(names) else "background" for c in columns]
    lines = [[names[i], int(matrix.rows[i]), *(f"{frequency[i, j]:.6f}" for j in columns)] for i in order]
    write_csv(folder / "heads.csv", ["label", "rows", *named], lines)
    figure = matrix_figure(frequency, names, order, matrix.rows, found.top_k)
    pairs = strongest_pairs(frequency, _PAIRS)
    pair_rows = [
        [names[i], names[j], f"{v:.3f}", f"{frequency[i, j]:.3f}", f"{frequency[j, i]:.3f}"] for i, j, v in pairs
    ]
    return [
        html.heading("Which categories are in each other's top-K sets"),
        html.picture(
            save(figure, folder / "heads.png"),
            "Row i, column j: the share of rows labelled i that have j in their top-K set. Ordered by hierarchical "
            "clustering (average linkage over 1 - the mean of both shares).",
        ),
        html.table(["category", "and", "mean", "second in first's set", "first in second's set"], pair_rows),
    ]


def _explanation(found: HeadTail) -> list[str]:
    body = [
        html.heading("How it was measured"),
        html.paragraph(
            "A row is what the student's detection head classifies in a training step (a sampled RoI, an anchor, a "
            "query). Rows of weight 0 are left out; stages or layers are pooled. The top-K set is the teacher's K most "
            f"probable categories, and P is their probability at temperature {found.tau:g}. Rows with the label of an "
            f"object are objects, the others are background. At most {MAX_BACKGROUND} background rows per image are "
            "sampled at random."
        ),
        html.paragraph(
            "A row is hard if its label is not the judge's most probable category. If a detection head has no logit "
            "for the background, a background row is hard if the judge gives some category more than 0.5. Rows of one "
            "image are similar, so there are fewer independent observations than rows."
        ),
    ]
    if found.activation == "sigmoid":
        text = (
            "This loss treats the categories independently (sigmoid). P is the top-K set's share of the sum of the "
            "teacher's probabilities. Classical distillation does not multiply the tail by 1 - P but by A, the "
            "probability that some category of the tail is present. ReKD replaces A by a constant, beta."
        )
    else:
        text = (
            "1 - P is the coefficient of the tail (KL_tail) in classical distillation: the more confident the teacher, "
            "the less the student learns about the tail. ReKD replaces it by a constant, beta."
        )
    body.append(html.paragraph(text))
    return body


def _mass_table(found: HeadTail) -> tuple[list[str], list[list[object]]]:
    header = ["judge", "group", "rows", "K", "mean_P", "mean_1-P", "label_in_head", *(f"P_q{q:g}" for q in _QUANTILES)]
    lines: list[list[object]] = []
    for judge in found.judges:
        for name, stats in found.groups(judge).items():
            quantiles = [stats.quantile(q) for q in _QUANTILES]
            for k in range(stats.max_k):
                label = f"{stats.label_share[k]:.6f}" if stats.labelled else ""
                values = [f"{q[k]:.6f}" for q in quantiles]
                mean = [f"{stats.mean_head[k]:.8f}", f"{stats.mean_tail[k]:.6e}"]
                lines.append([judge, name, stats.rows, k + 1, *mean, label, *values])
    return header, lines
