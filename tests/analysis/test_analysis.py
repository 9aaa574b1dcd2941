"""What the analyses measure, by hand where it can be."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tiny import batch, build_pair, forward_hooks, tiny_rcnn

from rekd_det.analysis.runs.category_ap import recompute
from rekd_det.analysis.runs.comparison import changes, write_comparison
from rekd_det.analysis.runs.runs import read_run, read_runs
from rekd_det.analysis.teacher import rows
from rekd_det.analysis.teacher.category_terms import CategoryTerms
from rekd_det.analysis.teacher.head_tail import HeadTail
from rekd_det.analysis.teacher.head_tail_report import comparison_text, suggestion_text
from rekd_det.analysis.teacher.heads import HeadMatrix, cluster_order, strongest_pairs
from rekd_det.analysis.teacher.mass import MassStats, head_and_tail, larger_tail
from rekd_det.analysis.teacher.rows import Rows, rows_of
from rekd_det.analysis.utils.tables import markdown
from rekd_det.models.losses import KDLoss, ReKDLoss
from rekd_det.testing.tiny_detectors import build_random, pair_of, tiny_batch, tiny_config
from rekd_det.utils.errors import InputError

# --- head and tail mass ---------------------------------------------------------------------


def test_mass_is_the_sum_of_the_largest_probabilities():
    logits = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]).log()
    head, tail = head_and_tail(logits, 2, "softmax")
    torch.testing.assert_close(head, torch.tensor([[0.6, 0.9], [0.6, 0.8]]).double(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(tail, torch.tensor([[0.4, 0.1], [0.4, 0.2]]).double(), rtol=1e-6, atol=1e-7)


def test_temperature_flattens():
    logits = torch.tensor([[4.0, 0.0, 0.0, 0.0]])
    sharp, flat = (head_and_tail(logits, 1, "softmax", tau)[0].item() for tau in (1.0, 4.0))
    assert sharp == pytest.approx(math.exp(4) / (math.exp(4) + 3))
    assert flat == pytest.approx(math.e / (math.e + 3))


def test_a_tail_far_below_rounding_keeps_its_digits():
    tail = head_and_tail(torch.tensor([[100.0, 0.0, 0.0]]), 1, "softmax")[1]
    assert tail.item() == pytest.approx(2 * math.exp(-100), rel=1e-9)


def test_sigmoid_mass_is_the_share_of_all_probabilities():
    p = torch.tensor([[0.5, 0.2, 0.1]])
    head, tail = head_and_tail(p.logit(), 1, "sigmoid")
    assert head.item() == pytest.approx(0.5 / 0.8, rel=1e-6)
    assert tail.item() == pytest.approx(0.3 / 0.8, rel=1e-6)


def stats_of(p: np.ndarray) -> MassStats:
    stats = MassStats(1)
    head = torch.from_numpy(p)[:, None].double()
    for part in (slice(0, 3), slice(3, None)):
        stats.add(head[part], 1 - head[part])
    return stats


def test_statistics_of_a_group():
    p = np.random.default_rng(0).uniform(0.01, 0.999, 2000)
    stats = stats_of(p)
    assert stats.rows == 2000
    assert stats.mean_head[0] == pytest.approx(p.mean())
    assert stats.mean_tail[0] == pytest.approx(1 - p.mean())
    for q in (0.1, 0.5, 0.9):
        assert stats.quantile(q)[0] == pytest.approx(np.quantile(p, q), abs=0.015)
    value, share = stats.cdf(1)
    at = int(np.searchsorted(value, 0.4))
    assert share[at] == pytest.approx((p <= value[at]).mean(), abs=1e-9)
    assert share[-1] == 1


def test_an_empty_group_has_no_numbers():
    stats = MassStats(3)
    for values in (stats.mean_head, stats.mean_tail, stats.quantile(0.5), stats.label_share):
        assert np.isnan(values).all()
    assert math.isnan(larger_tail(stats, stats_of(np.full(9, 0.5)), 1))


def test_larger_tail_agrees_with_counting_pairs():
    rng = np.random.default_rng(1)
    # Far apart for the histogram's bins, so that both count the same ties.
    grid = np.array([0.2, 0.5, 0.8, 0.99])
    a, b = rng.choice(grid, 60), rng.choice(grid, 50, p=[0.1, 0.2, 0.3, 0.4])
    wanted = ((1 - a)[:, None] > (1 - b)[None]).mean() + 0.5 * (a[:, None] == b[None]).mean()
    assert larger_tail(stats_of(a), stats_of(b), 1) == pytest.approx(wanted)


def test_label_in_head():
    stats = MassStats(3)
    head = torch.full((4, 3), 0.5).double()
    stats.add(head, 1 - head, torch.tensor([0, 1, 2, 7]))
    assert stats.label_share.tolist() == [0.25, 0.5, 0.75]


# --- rows -----------------------------------------------------------------------------------


def test_a_softmax_row_is_hard_where_the_label_is_not_first():
    logits = torch.eye(3)[[0, 1, 2, 2]]
    found = Rows(logits, logits, torch.tensor([0, 0, 2, 1]), num_categories=2, activation="softmax")
    assert found.is_object.tolist() == [True, True, False, True]
    assert found.hard_for(logits).tolist() == [False, True, False, True]


def test_a_sigmoid_background_row_is_hard_where_a_category_passes_a_half():
    logits = torch.tensor([[-2.0, -3.0], [-2.0, -3.0], [-2.0, -3.0], [-2.0, 0.1]])
    found = Rows(logits, logits, torch.tensor([0, 1, 2, 2]), num_categories=2, activation="sigmoid")
    assert found.hard_for(logits).tolist() == [False, True, False, True]


def test_background_is_thinned_and_objects_are_kept():
    background = torch.tensor([True] * 50 + [False] * 5)
    kept = rows._thin_background(background, 7)
    assert kept[50:].all() and kept[:50].sum() == 7
    assert rows._thin_background(background, 50).all()


def test_rows_of_an_identical_teacher_are_the_students():
    model = build_pair(tiny_rcnn())
    model.eval()
    data = batch(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    (found,) = rows_of(model, data)
    assert len(found.teacher) == len(found.labels) > 0
    assert torch.equal(found.teacher, found.student)
    assert not found.student.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert forward_hooks(model) == 0


def test_a_teacher_in_low_precision_has_rows_too():
    found = []
    for dtype in (None, "bf16"):
        model = build_pair(tiny_rcnn(), teacher=build_random(tiny_rcnn(), seed=1), teacher_dtype=dtype)
        torch.manual_seed(0)
        found.append(next(rows_of(model, batch(model))))
    assert torch.equal(found[0].student, found[1].student)
    torch.testing.assert_close(found[0].teacher, found[1].teacher, rtol=0.05, atol=0.05)
    assert not torch.equal(found[0].teacher, found[1].teacher)


def test_an_implicit_background_is_a_logit_of_zero():
    config = tiny_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    loss = dict(type="mmrazor.ReKDLoss", top_k=2, activation="implicit_bg")
    model = pair_of(build_random(config), build_random(config, seed=1), loss)
    (found,) = rows_of(model, tiny_batch(model.student))
    assert found.activation == "softmax" and found.num_categories == 80
    assert found.teacher.shape[1] == 81 and not found.teacher[:, -1].any()
    images = 2
    assert (~found.is_object).sum() == images * rows.MAX_BACKGROUND


def test_terms_of_a_sigmoid_head_by_category():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(40, 6, generator=generator) * 2 - 3 for _ in range(2))
    labels = torch.randint(0, 7, (40,), generator=generator)  # 6 is the background
    found = CategoryTerms([f"c{i}" for i in range(6)], top_k=2, tau=1.0)
    found.add(teacher[:25], student[:25], labels[:25])
    found.add(teacher[25:], student[25:], labels[25:])
    table = {line[0]: line[1:] for line in found.table()}
    mine = labels == 3
    loss = ReKDLoss(top_k=2, activation="sigmoid", reduction="none")
    parts, _ = loss.components(student[mine], teacher[mine])
    tail = torch.ones(int(mine.sum()), 6).scatter(1, teacher[mine].topk(2).indices, 0.0).bool()
    a = 1 - torch.where(tail, 1 - teacher[mine].sigmoid(), 1.0).prod(1)
    kd = KDLoss(activation="sigmoid")(student[mine], teacher[mine])
    want = (a.mean(), a.median(), parts["loss_tisd"].mean(), parts["loss_ntid"].mean(), (a * parts["loss_ntid"]).mean())
    assert [float(x) for x in table["c3"][1:6]] == pytest.approx([float(x) for x in want], rel=6e-3)
    assert float(table["c3"][3]) + float(table["c3"][5]) == pytest.approx(float(kd), rel=6e-3)
    assert sum(int(line[0]) for line in table.values()) == 40 and "background" in table


# --- the matrix of heads --------------------------------------------------------------------


def test_matrix_by_hand():
    matrix = HeadMatrix(num_categories=3, num_logits=4, top_k=2)
    matrix.add(torch.tensor([[9.0, 8, 0, 0], [9, 0, 0, 8], [0, 9, 0, 8]]), torch.tensor([0, 0, 1]))
    assert matrix.rows.tolist() == [2, 1, 0]
    assert matrix.frequency[0].tolist() == [1, 0.5, 0, 0.5]
    assert matrix.frequency[1].tolist() == [0, 1, 0, 1]
    assert np.isnan(matrix.frequency[2]).all()


def test_clusters_stand_together_and_the_unseen_last():
    family = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    frequency = np.where(family[:, None] == family[None], 0.9, 0.05)
    frequency[4] = np.nan
    order = cluster_order(frequency)
    assert sorted(order) == list(range(9)) and order[-1] == 4
    runs = [family[order[0]]] + [b for a, b in zip(family[order[:-1]], family[order[1:-1]], strict=False) if a != b]
    assert len(runs) == 3


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_too_few_categories_to_cluster(seen):
    frequency = np.full((4, 4), np.nan)
    frequency[:seen] = 0.5
    assert sorted(cluster_order(frequency)) == [0, 1, 2, 3]


def test_strongest_pairs_leave_out_background_and_the_unseen():
    frequency = np.array([[1, 0.8, 0.1, 1], [0.4, 1, 0.2, 1], [np.nan] * 4])
    assert strongest_pairs(frequency, 5) == [(0, 1, pytest.approx(0.6))]


# --- the suggestion -------------------------------------------------------------------------


def collected(easy: int, hard: int, flat: float = 1.0) -> HeadTail:
    """Rows of label 0; the easy ones are sure of it, the hard ones divide their mass between 1, 2 and 0."""
    found = HeadTail(["a", "b", "c", "d"], 5, 2, "softmax", 1.0, ("teacher",))
    sure = torch.tensor([0.97, 0.01, 0.01, 0.005, 0.005]).log()
    torn = torch.tensor([0.2, 0.4, 0.36, 0.02, 0.02]).log() * flat
    logits = torch.cat([sure.expand(easy, 5), torn.expand(hard, 5)])
    found.add(Rows(logits, logits, torch.zeros(easy + hard, dtype=torch.long), 4, "softmax"))
    return found


def test_hard_objects_decide():
    suggestion = collected(easy=300, hard=100).suggest()
    assert (suggestion.top_k, suggestion.group, suggestion.reached) == (3, "object, hard", True)
    assert suggestion.mass == pytest.approx(0.96)


def test_too_few_hard_rows_decide_nothing():
    suggestion = collected(easy=9000, hard=99).suggest()
    assert (suggestion.top_k, suggestion.group) == (2, "object")  # K = 1 would do, and relates nothing


def test_a_flat_teacher_is_said_to_be_flat():
    found = collected(easy=0, hard=200, flat=0.1)
    assert not found.suggest().reached
    assert "probabilities are flat" in suggestion_text(found)


def test_no_row_no_suggestion():
    assert collected(0, 0).suggest() is None
    assert "no K can be suggested" in suggestion_text(collected(0, 0))


def test_two_logits_leave_one_k():
    found = HeadTail(["a"], 2, 1, "softmax", 1.0, ("teacher",))
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    found.add(Rows(logits, logits, torch.zeros(2, dtype=torch.long), 1, "softmax"))
    assert suggestion_text(found).startswith("K is 1")


def test_rows_without_labels_are_one_group():
    found = HeadTail(["a", "b"], 3, 1, "softmax", 1.0, ("teacher",))
    logits = torch.randn(200, 3)
    found.add(Rows(logits, logits, None, 2, "softmax"))
    assert list(found.groups("teacher")) == ["all rows"]
    assert found.suggest().group == "all rows"


def test_easy_and_hard_in_words():
    groups = collected(easy=50, hard=50).groups("teacher")
    text = comparison_text(groups, "object", 2)
    assert "2.00e-02 on easy and 2.40e-01 on hard" in text and "In 100% of random pairs" in text
    assert comparison_text(groups, "background", 2) is None


# --- what runs logged -----------------------------------------------------------------------


def log(folder: Path, *entries: dict, end: str = "") -> None:
    file = folder / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(e) + "\n" for e in entries) + end)


def train(step: int, **values) -> dict:
    return dict(train_by_iteration(step, **values), epoch=1)


def train_by_iteration(step: int, **values) -> dict:
    return dict(lr=0.1, data_time=0.0, iter=step, step=step, **values)


def val(step: int, **values) -> dict:
    return {f"coco/{k}": v for k, v in values.items()} | dict(time=0.1, step=step)


def test_a_resumed_run_is_one_curve(tmp_path):
    log(
        tmp_path / "20240101_000000",
        train(10, loss=3.0),
        train(20, loss=2.5),
        val(1, bbox_mAP=0.1),
        train(30, loss=9.0),
    )
    log(tmp_path / "20240102_000000", train(30, loss=2.0), val(2, bbox_mAP=0.3), val(3, bbox_mAP=0.2), end='{"lr": 0.')
    run = read_run(tmp_path, "a")
    assert (run.train["loss"].steps, run.train["loss"].values) == ([10, 20, 30], [3.0, 2.5, 2.0])
    assert run.val["bbox_mAP"].steps == [1, 2, 3]
    assert (run.final("bbox_mAP"), run.best("bbox_mAP")) == (0.2, 0.3)
    assert run.final("segm_mAP") is None
    assert "time" not in run.val and "data_time" not in run.train


def test_a_test_and_a_fresh_start_in_the_same_folder(tmp_path):
    log(tmp_path / "1", train(10, loss=3.0), val(1, bbox_mAP=0.5), train(20, loss=2.5))
    log(tmp_path / "2", val(0, bbox_mAP=0.9))
    assert read_run(tmp_path, "a").val["bbox_mAP"].values == [0.5]
    log(tmp_path / "3", train(10, loss=1.0))
    run = read_run(tmp_path, "a")
    assert run.train["loss"].values == [1.0] and run.final("bbox_mAP") is None


def test_a_resume_inside_an_earlier_epoch_drops_the_validations_behind_it(tmp_path):
    lines = [line for epoch in (1, 2, 3) for line in (train(10 * epoch, loss=3.0), val(epoch, bbox_mAP=epoch / 10))]
    log(tmp_path / "1", *lines)
    log(tmp_path / "2", train(20, loss=2.0))  # not at its validation yet
    run = read_run(tmp_path, "a")
    assert run.train["loss"].values == [3.0, 2.0]
    assert (run.final("bbox_mAP"), run.best("bbox_mAP")) == (0.1, 0.1)
    log(tmp_path / "3", train(30, loss=1.0), val(3, bbox_mAP=0.6))  # resumed behind it, but its log was lost
    assert read_run(tmp_path, "a").val["bbox_mAP"].steps == [1, 3]


def test_so_does_one_before_an_earlier_iteration(tmp_path):
    lines = [train_by_iteration(step, loss=1.0) for step in (2, 4, 6)]
    log(tmp_path / "1", lines[0], val(0, bbox_mAP=0.1), lines[1], val(0, bbox_mAP=0.2), lines[2], val(0, bbox_mAP=0.3))
    log(tmp_path / "2", lines[1])
    curve = read_run(tmp_path, "a").val["bbox_mAP"]
    assert (curve.steps, curve.values) == ([2], [0.1])


def test_a_validation_that_a_resumed_run_repeats_counts(tmp_path):
    log(tmp_path / "1", train(10, loss=3.0), val(1, bbox_mAP=0.5), train(20, loss=2.5))  # killed while it validated
    log(tmp_path / "2", val(2, bbox_mAP=0.3))
    run = read_run(tmp_path, "a")
    assert (run.val["bbox_mAP"].steps, run.val["bbox_mAP"].values) == ([1, 2], [0.5, 0.3])
    assert run.train["loss"].steps == [10, 20]


def test_validations_of_an_iteration_based_run_are_at_iterations(tmp_path):
    lines = [train_by_iteration(step, loss=1.0) for step in (2, 4, 6, 8, 10)]
    log(tmp_path / "1", *lines[:2], val(0, bbox_mAP=0.1), *lines[2:4], val(0, bbox_mAP=0.4), lines[4])
    # Resumed at 8. It repeats that validation, and is killed in its last one.
    log(tmp_path / "2", val(0, bbox_mAP=0.2), lines[4], train_by_iteration(12, loss=0.5))
    curve = read_run(tmp_path, "a").val["bbox_mAP"]
    assert (curve.steps, curve.values) == ([4, 8], [0.1, 0.2])
    log(tmp_path / "3", val(0, bbox_mAP=0.3))
    curve = read_run(tmp_path, "a").val["bbox_mAP"]
    assert (curve.steps, curve.values) == ([4, 8, 12], [0.1, 0.2, 0.3])
    log(tmp_path / "4", val(0, bbox_mAP=0.9))  # 12 has been validated, so this is apart from the training
    assert read_run(tmp_path, "a").final("bbox_mAP") == 0.3


def test_an_iteration_that_the_log_says_is_kept(tmp_path):
    log(tmp_path / "1", train_by_iteration(50, loss=1.0), val(60, bbox_mAP=0.1), val(70, bbox_mAP=0.2))
    assert read_run(tmp_path, "a").val["bbox_mAP"].steps == [60, 70]


def test_names_keep_their_slashes(tmp_path):
    log(
        tmp_path / "1",
        train(1, loss=1.0),
        val(1, bbox_mAP=0.3, **{"monitor/tv_precision": 0.6, "radio/tv_precision": 0.1}),
    )
    run = read_run(tmp_path, "a")
    assert run.per_category() == {"monitor/tv": 0.6, "radio/tv": 0.1}
    assert run.final("bbox_mAP") == 0.3


def test_two_evaluators_keep_their_prefixes(tmp_path):
    log(
        tmp_path / "1",
        train(1, loss=1.0),
        {"easy/bbox_mAP": 0.6, "hard/bbox_mAP": 0.2, "hard/segm_mAP": 0.1, "step": 1},
    )
    run = read_run(tmp_path, "a")
    assert {name: run.final(name) for name in run.val} == {
        "easy/bbox_mAP": 0.6,
        "hard/bbox_mAP": 0.2,
        "segm_mAP": 0.1,
    }


def test_metrics_other_than_cocos_have_a_table_of_their_own(tmp_path):
    log(tmp_path / "classes" / "1", train(1, loss=1.0), {"accuracy/top1": 60.0, "accuracy/top5": 90.0, "step": 1})
    log(tmp_path / "better" / "1", train(1, loss=1.0), {"accuracy/top1": 61.5, "accuracy/top5": 90.0, "step": 1})
    log(tmp_path / "boxes" / "1", train(1, loss=1.0), val(1, bbox_mAP=0.3, cat_precision=0.3))
    log(tmp_path / "new" / "1", train(1, loss=1.0))
    classes, better, boxes, new = read_runs([str(tmp_path / name) for name in ("classes", "better", "boxes", "new")])
    report = write_comparison([classes, better, new], [{}, {}, {}], tmp_path).read_text()
    assert "| others | top1 | top5 | highest top1 |" in report
    assert "| classes | 60.000 | 90.000 | 60.000 |" in report
    assert "| better | 61.500 (+1.500) | 90.000 (+0.000) | 61.500 |" in report
    assert "| new | - | - | - |" in report and "AP by category" not in report
    report = write_comparison([boxes, classes], [{}, {}], tmp_path).read_text()
    assert "| boxes | 0.300 | 0.300 |" in report and "| classes | 60.000 |" in report
    assert "is not known for: boxes. Train" in report
    assert "No run has validated yet." in write_comparison([new, new], [{}, {}], tmp_path).read_text()


def test_logs_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        read_run(tmp_path / "none", "a")
    with pytest.raises(InputError, match=r"holds no log: expected TIMESTAMP/vis_data/scalars\.json"):
        read_run(tmp_path, "a")


@pytest.mark.parametrize("broken", ['{"lr"', "7", "\udcff"])
def test_a_damaged_line_costs_that_line(tmp_path, broken):
    log(tmp_path / "1", train(10, loss=3.0))
    (file,) = tmp_path.glob("1/vis_data/scalars.json")
    good = file.read_bytes()
    more = json.dumps(train(20, loss=2.0)).encode()
    file.write_bytes(good.rstrip() + b"\n" + broken.encode(errors="surrogateescape") + b"\n" + more + b"\n")
    with pytest.warns(UserWarning, match="line 2 is damaged and was skipped"):
        assert read_run(tmp_path, "a").train["loss"].values == [3.0, 2.0]


def test_runs_get_the_shortest_names_that_differ(tmp_path):
    for name in ("x/rekd", "y/rekd"):
        log(tmp_path / name / "1", train(1, loss=1.0))
    assert [r.name for r in read_runs([str(tmp_path / "x/rekd"), str(tmp_path / "y/rekd")])] == ["x/rekd", "y/rekd"]
    with pytest.raises(InputError, match="given twice"):
        read_runs([str(tmp_path / "x")] * 2)


def test_changes_by_category():
    before = dict(cat=0.2, dog=0.5, cow=0.3, tree=float("nan"), only=0.1)
    after = dict(cat=0.4, dog=0.1, cow=0.3, tree=0.3)
    assert [c.category for c in changes(before, after)] == ["cat", "cow", "dog"]
    assert changes(before, after)[0].difference == pytest.approx(0.2)


def test_a_comparison_names_winners_and_losers(tmp_path):
    names = [f"kind {i}" for i in range(30)]
    for run, shift in (("control", 0.0), ("rekd", 0.01)):
        ap = {f"{n}_precision": 0.3 + shift * (i - 10) for i, n in enumerate(names)}
        results = dict(bbox_mAP=0.3 + shift, bbox_mAP_s=-1.0, segm_mAP=0.2, **ap)
        log(tmp_path / run / "1", *(train(i, loss=3.0 / i) for i in range(1, 200)), val(1, **results))
    runs = read_runs([str(tmp_path / "control"), str(tmp_path / "rekd")])
    report = write_comparison(runs, [r.per_category() for r in runs], tmp_path).read_text()
    assert "| rekd | 0.310 (+0.010) | - | 0.310 |" in report
    assert "| rekd | 0.200 (+0.000) | 0.200 |" in report
    assert report.index("| kind 29 | 0.300 | 0.490 | +0.190 |") < report.index("| kind 0 | 0.300 | 0.200 | -0.100 |")
    assert "kind 10 |" not in report  # unchanged
    with (tmp_path / "categories.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 30 and float(table[29]["rekd"]) == pytest.approx(0.49)
    for picture in ("curves.png", "categories_1.png"):
        assert imread(tmp_path / picture).shape[0] > 300


def test_markdown_escapes_pipes():
    assert markdown(["a|b", "c"], [["1", "2"]]) == ["| a\\|b | c |", "| --- | ---: |", "| 1 | 2 |"]


def test_ap_by_category_from_detections(tmp_path):
    boxes = {1: [0, 0, 20, 20], 2: [30, 30, 20, 20]}
    truth = dict(
        images=[dict(id=1, width=64, height=64)],
        categories=[dict(id=i, name=n) for i, n in ((1, "cat"), (2, "dog"), (3, "none"))],
        annotations=[dict(id=i, image_id=1, category_id=i, bbox=b, area=400, iscrowd=0) for i, b in boxes.items()],
    )
    found = [dict(image_id=1, category_id=1, bbox=boxes[1], score=0.9)]
    found.append(dict(image_id=1, category_id=2, bbox=[0, 0, 5, 5], score=0.9))
    astray = [dict(found[0], image_id=7)]
    for name, content in (("truth", truth), ("found", found), ("astray", astray)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    annotations = str(tmp_path / "truth.json")
    assert recompute(tmp_path / "found.json", annotations, "bbox") == dict(cat=pytest.approx(1), dog=0)
    with pytest.raises(InputError, match=r"astray\.json' can't be evaluated against"):
        recompute(tmp_path / "astray.json", annotations, "bbox")


def test_ap_by_category_counts_as_many_detections_as_mmdet_does(tmp_path):
    boxes = [[30 * (i % 15), 30 * (i // 15), 20, 20] for i in range(150)]
    truth = dict(
        images=[dict(id=1, width=450, height=300)],
        categories=[dict(id=1, name="cat")],
        annotations=[
            dict(id=i, image_id=1, category_id=1, bbox=b, area=400, iscrowd=0) for i, b in enumerate(boxes, start=1)
        ],
    )
    found = [dict(image_id=1, category_id=1, bbox=b, score=0.9) for b in boxes]
    for name, content in (("truth", truth), ("found", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    ours = recompute(tmp_path / "found.json", str(tmp_path / "truth.json"), "bbox")
    assert ours == dict(cat=pytest.approx(1))  # 0.67 with the first hundred
