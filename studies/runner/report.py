"""The report of a study: Markdown, CSV and a figure, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rekd_det.analysis.utils.figures import save
from rekd_det.analysis.utils.tables import markdown, write_csv
from studies.runner.builds import rebuilt_section
from studies.runner.comparison import Comparison, compare_arms
from studies.runner.figure import difference_figure
from studies.runner.metrics import MAIN, METRICS, TASKS, Task
from studies.runner.missing import missing_section
from studies.runner.spec import TEACHER, Comparable, Study
from studies.runner.statistics import deviation, mean

REPORT = "report.md"
_MAIN_NAMES = {"bbox_mAP": "box AP", "segm_mAP": "mask AP", "top1": "top-1"}
_READING = (
    "Differences are paired: each seed's arm minus the same seed's baseline, which had the same first weights, "
    "the same data in the same order and the same random numbers in each step. The interval is the 95 % t interval of "
    "these differences, mean ± t(0.975, n - 1) · s / √n, for n seeds; it takes them to be normally distributed, and "
    "with few seeds it is wide. Only the seed varies: one data set, one teacher and one schedule say nothing about "
    "others. Intervals are not corrected for the number of arms: of twenty arms without any effect, one is expected to "
    "exclude 0."
)


def write_report(study: Study, results: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write ``report.md``, ``summary.csv``, ``runs.csv`` and a figure for each task into an existing folder.

    Args:
        study: what was to be done.
        results: what :func:`studies.runner.results.collect` gave.

    Returns:
        The path of ``report.md``.
    """
    parts = _by_pair(study)
    _write_tables([one for part in parts.values() for one in compare_arms(part, results)], results, folder)
    text = [f"# Study {study.name}", "", *_state(study, results), "", _READING, ""]
    for name, part in parts.items():
        if name:
            text += [f"# {name}", "", *_zoo(study.pairs[name])]
        text += _of_one_pair(part, results, folder, f"{name}_" if name else "")
    text += [
        *_curves(results),
        *rebuilt_section(results),
        *missing_section(results),
        "## Runs",
        "",
        *_runs(results),
        "",
        *_failures(results),
        *_conditions(results),
    ]
    report = folder / REPORT
    report.write_text("\n".join(text), encoding="utf-8")
    return report


def _by_pair(study: Study) -> dict[str, Study]:
    """The arms that share a baseline, by the name of their pair; '' where a study has no pairs."""
    if not study.pairs:
        return {"": study}
    parts = {}
    for name, pair in study.pairs.items():
        arms = tuple(arm for arm in study.arms if arm.pair == name)
        against = tuple(other for other in study.against if any(arm.name == other for arm in arms))
        parts[name] = replace(study, arms=arms, baseline=pair.baseline, against=against, pairs={})
    return parts


def _of_one_pair(study: Study, results: Sequence[Mapping[str, Any]], folder: Path, prefix: str) -> list[str]:
    """The tables of arms that share a baseline; the figure's name starts with ``prefix``."""
    text: list[str] = []
    compared = _with_results(compare_arms(study, results))
    for task in TASKS:
        main = task.metrics[0]
        of_task = [c for c in compared if c.metric == main]
        if not of_task:
            continue
        picture = f"{prefix}{task.name}.png"
        text += [f"## {task.title}, in points", "", f"Differences are to **{study.baseline}**.", ""]
        text += [*_table(study, of_task, study.baseline), ""]
        if any(one.difference for one in of_task):
            save(difference_figure(study.baseline, of_task), folder / picture)
            text += [f"![differences]({picture})", ""]
        for other in study.against:
            of_other = _with_results([c for c in compare_arms(study, results, other) if c.metric == main])
            if all(c.arm != other for c in of_other):
                continue
            text += [f"The same as differences to **{other}**:", "", *_table(study, of_other, other), ""]
        text += [*_other_metrics(study, compared, task), ""]
    return text


def _with_results(compared: Sequence[Comparison]) -> list[Comparison]:
    """Without the arms that no seed has finished: the report lists those under *Missing*."""
    return [c for c in compared if c.values]


def _zoo(pair: Comparable) -> list[str]:
    """What mmdet's zoo states for a pair; it was not measured here."""
    if not pair.zoo:
        return []
    told = [f"{who} {', '.join(f'{k} {v:.1f}' for k, v in figures.items())}" for who, figures in pair.zoo.items()]
    return [f"MMDetection's model zoo states, on COCO val2017: {'; '.join(told)}.", ""]


def _state(study: Study, results: Sequence[Mapping[str, Any]]) -> list[str]:
    finished = sum(line["status"] == "ok" for line in results)
    state = [f"{finished} of {len(results)} runs are finished."]
    if finished < len(results):
        state.append("**This report is of an unfinished study.**")
    teachers = [line for line in results if line["arm"].partition(".")[0] == TEACHER and line["status"] == "ok"]
    state += [f"{line['arm'][:1].upper()}{line['arm'][1:]}: {_all_metrics(line['metrics'])}." for line in teachers]
    if study.data is not None:
        state.append(f"Generated data: {', '.join(f'{k} {v}' for k, v in study.data.items())}.")
    return [" ".join(state)]


def _table(study: Study, compared: Sequence[Comparison], baseline: str) -> list[str]:
    arms = {arm.name: arm for arm in study.arms}
    header = ["arm", "seeds", "mean", "std", "difference", "95 % interval", "excludes 0"]
    lines = []
    for one in compared:
        values, found = list(one.values.values()), one.difference
        arm = arms[one.arm]
        name = f"{one.arm}: {arm.about}" if arm.about else one.arm
        cells = [name, f"{len(values)} of {len(arm.seeds)}", _points(mean(values)), _points(deviation(values))]
        if one.arm == baseline:
            cells += ["baseline", "", ""]
        elif found is None:
            cells += ["-", "-", "-"]
        else:
            half = found.half_width
            interval = "-" if half is None else f"{_signed(found.mean - half)} to {_signed(found.mean + half)}"
            shared = "" if len(found.by_seed) == len(values) else f" ({len(found.by_seed)} seeds)"
            excludes = "-" if half is None else "yes" if found.excludes_zero else "no"
            cells += [_signed(found.mean) + shared, interval, excludes]
        lines.append(cells)
    return markdown(header, lines)


def _curves(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Box AP during the trainings that were validated."""
    rows = [
        [line["arm"], str(line["seed"]), ", ".join(f"{step}: {_points(ap)}" for step, ap in line["curve"].items())]
        for line in results
        if line.get("curve")
    ]
    return ["## Box AP during the training", "", *markdown(["run", "seed", "epoch: AP"], rows), ""] if rows else []


def _other_metrics(study: Study, compared: Sequence[Comparison], task: Task) -> list[str]:
    """Means over the seeds of everything that the task's metric measures."""
    metrics = [m for m in task.metrics if any(c.metric == m for c in compared)]
    means = {(c.arm, c.metric): mean(list(c.values.values())) for c in compared}
    names = [m.removeprefix(f"{task.name}_") for m in metrics]
    arms = [a.name for a in study.arms if any((a.name, m) in means for m in metrics)]
    return markdown(["mean over seeds", *names], [[a, *(_points(means.get((a, m))) for m in metrics)] for a in arms])


def _runs(results: Sequence[Mapping[str, Any]]) -> list[str]:
    main = next((m for m in MAIN if any(m in line.get("metrics", {}) for line in results)), MAIN[0])
    header = ["run", "seed", "state", _MAIN_NAMES.get(main, main), "minutes"]
    lines = []
    for line in results:
        if line["status"] == "not run":
            continue
        ok = line["status"] == "ok"
        minutes = f"{line['wall_s'] / 60:.1f}" + ("*" if line["starts"] > 1 else "") if ok else "-"
        value = _points(line["metrics"].get(main)) if ok else "-"
        lines.append([line["arm"], str(line["seed"]), line["status"], value, minutes])
    table = markdown(header, lines)
    if any("*" in cells[-1] for cells in lines):
        table += ["", "\\* was interrupted and went on; the time is of its last part."]
    return table


def _failures(results: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [line for line in results if line["status"] == "failed"]
    if not failed:
        return []
    text = ["## What failed", ""]
    for line in failed:
        text += [f"{line['arm']}, seed {line['seed']} (`{line['folder']}`):", "", "```", line["error"], "```", ""]
    return text


def _conditions(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """On what the runs were computed; one line where all agree."""
    told = []
    for line in results:
        if line["status"] == "ok":
            machine = line["hardware"]
            gpus = ", ".join(machine["gpus"]) if line["device"] == "gpu" else "no GPU"
            parts = ", ".join(f"{name} {number}" for name, number in line["versions"].items())
            # Their number decides the batch size, which a run's digest does not know.
            processes = f", {line['processes']} processes" if line.get("processes", 1) > 1 else ""
            cores = f", {machine['cores']} cores" if machine["cores"] else ""
            told.append(f"* {machine['cpu']}{cores}, {gpus}{processes}; {parts}")
    return ["## Hardware and versions", "", *(dict.fromkeys(told) or ["No run has finished."]), ""]


def _write_tables(compared: Sequence[Comparison], results: Sequence[Mapping[str, Any]], folder: Path) -> None:
    summary = []
    for one in compared:
        values, found = list(one.values.values()), one.difference
        half = found.half_width if found else None
        bounds = [found.mean - half, found.mean + half] if found and half is not None else [None, None]
        cells = [mean(values), deviation(values), found.mean if found else None, *bounds]
        paired = len(found.by_seed) if found else 0
        summary.append([one.arm, one.metric, len(values), paired, *cells])
    header = ["arm", "metric", "seeds", "paired", "mean", "std", "difference", "low", "high"]
    write_csv(folder / "summary.csv", header, summary)
    metrics = [m for m in METRICS if any(m in line.get("metrics", {}) for line in results)]
    write_csv(
        folder / "runs.csv",
        ["arm", "seed", "status", "starts", "wall_s", *metrics, "digest"],
        [
            [line["arm"], line["seed"], line["status"], line["starts"], line.get("wall_s")]
            + [_known(line.get("metrics", {}).get(m)) for m in metrics]
            + [line["digest"]]
            for line in results
        ],
    )


def _all_metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * metrics[name]:.1f}" for name in METRICS if metrics.get(name, -1.0) >= 0)


def _points(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    points = round(100 * value, 1)
    return "0.0" if points == 0 else f"{points:+.1f}"


def _known(value: float | None) -> object:
    return "" if value is None or value < 0 else value
