"""The report has every arm and the right numbers."""

from __future__ import annotations

import csv

import pytest
from study_files import PAIR, STUDENT, line, write

from studies.runner.missing import missing_section
from studies.runner.report import write_report
from studies.runner.statistics import deviation, paired_difference
from studies.runner.study_file import read_study


def test_the_interval_is_the_one_of_a_table():
    # Differences 1, 2, 3: s = 1, t(0.975, 2) = 4.30265, half width 4.30265 / sqrt(3).
    found = paired_difference({0: 11.0, 1: 14.0, 2: 13.0, 3: 99.0}, {0: 10.0, 1: 12.0, 2: 10.0})
    assert found.by_seed == {0: 1.0, 1: 2.0, 2: 3.0}
    assert found.mean == pytest.approx(2.0)
    assert found.half_width == pytest.approx(2.48414, abs=1e-5)
    assert not found.excludes_zero
    # Two seeds: t(0.975, 1) = 12.7062, s = 0.7071068, half width 6.3531.
    assert paired_difference({0: 8.0, 1: 9.0}, {0: 0.0, 1: 0.0}).half_width == pytest.approx(6.3531, abs=1e-4)
    assert paired_difference({0: 8.0, 1: 9.0}, {0: 0.0, 1: 0.0}).excludes_zero
    one = paired_difference({0: 8.0}, {0: 7.0})
    assert (one.mean, one.half_width, one.excludes_zero) == (1.0, None, False)
    assert paired_difference({0: 8.0}, {1: 7.0}) is None


def test_the_deviation_is_that_of_a_sample():
    assert deviation([2.0, 4.0, 6.0]) == pytest.approx(2.0)
    assert deviation([2.0]) is None


@pytest.fixture
def reported(tmp_path):
    arms = {
        "alone": {"config": STUDENT, "about": "nothing"},
        "kd": {"config": PAIR},
        "broken": {"config": PAIR},
        "late": {"config": PAIR},
        "partly": {"config": PAIR},
    }
    study = read_study(write(tmp_path, seeds=[0, 1, 2], arms=arms, against=["kd", "partly"]))
    results = [
        *(line("alone", seed, value) for seed, value in enumerate((0.10, 0.12, 0.10))),
        *(line("kd", seed, value) for seed, value in enumerate((0.11, 0.14, 0.13))),
        *(line("broken", seed, None) for seed in range(3)),
        *(line("late", seed, None, status="not run") for seed in range(3)),
    ]
    for entry in results[-3:]:
        del entry["error"]
    results += [line("partly", 0, 0.12), line("partly", 1, None), line("partly", 2, 0.15)]
    write_report(study, results, tmp_path)
    return tmp_path


def test_the_report_has_every_arm_and_the_right_numbers(reported):
    text = (reported / "report.md").read_text()
    assert "8 of 15 runs are finished. **This report is of an unfinished study.**" in text
    assert "| alone: nothing | 3 of 3 | 10.7 | 1.2 | baseline |  |  |" in text
    assert "| kd | 3 of 3 | 12.7 | 1.5 | +2.0 | -0.5 to +4.5 | no |" in text
    tables, _, missing = text.partition("## Missing")
    assert "broken" not in tables and "late" not in tables  # no rows of dashes
    assert "| broken | 0 (failed), 1 (failed), 2 (failed) |" in missing
    assert missing.count("late") == 1 and "| late | 0 (not run), 1 (not run), 2 (not run) |" in missing
    _, _, against = text.partition("differences to **kd**")
    assert "| kd | 3 of 3 | 12.7 | 1.5 | baseline |  |  |" in against
    assert "| alone: nothing | 3 of 3 | 10.7 | 1.2 | -2.0 | -4.5 to +0.5 | no |" in against
    _, _, against = text.partition("differences to **partly**")
    assert "| kd | 3 of 3 | 12.7 | 1.5 | -1.5 (2 seeds) | -7.9 to +4.9 | no |" in against
    assert "| kd | 12.7 | 25.3 |" in text and "mAP_l" not in text  # no objects of that size: not -100
    assert text.count("loss_cls is NaN") == 4
    assert "t interval" in text
    assert (reported / "bbox.png").read_bytes().startswith(b"\x89PNG")


def test_the_tables_hold_the_same(reported):
    with (reported / "summary.csv").open() as file:
        rows = {(row["arm"], row["metric"]): row for row in csv.DictReader(file)}
    kd = rows["kd", "bbox_mAP"]
    assert (kd["seeds"], kd["paired"]) == ("3", "3")
    assert float(kd["difference"]) == pytest.approx(0.02)
    assert float(kd["low"]) == pytest.approx(0.02 - 0.0248414, abs=1e-6)
    assert float(kd["high"]) == pytest.approx(0.02 + 0.0248414, abs=1e-6)
    assert rows["broken", "bbox_mAP"]["mean"] == ""
    with (reported / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 15
    assert [run["status"] for run in runs[::3]] == ["ok", "ok", "failed", "not run", "ok"]
    assert runs[0]["bbox_mAP_l"] == ""


def test_a_report_of_nothing(tmp_path, run_tool, capsys):
    run_tool("study.py", write(tmp_path), "--out", tmp_path, "--report")
    assert f"report: {tmp_path / 's' / 'report.md'}" in capsys.readouterr().out
    text = (tmp_path / "s" / "report.md").read_text()
    assert "0 of 4 runs are finished" in text
    assert "| kd | 0 (not run), 1 (not run) | - |" in text and "in points" not in text
    assert "No run has finished." in text


def test_a_report_of_some_arms_is_refused(tmp_path, run_tool, capsys):
    with pytest.raises(SystemExit):
        run_tool("study.py", write(tmp_path), "--report", "--only", "kd")
    assert "--report covers all arms; leave out --only" in capsys.readouterr().err


def test_a_missing_run_takes_as_long_as_others_of_its_arm():
    lines = [
        dict(line("kd", 0, 0.25, folder="pair-seed0-a"), wall_s=600.0),
        dict(line("kd_54", 0, 0.25, folder="pair-seed0-b"), wall_s=900.0),
        *(line(arm, 1, None, folder=f"pair-seed1-{arm}") for arm in ("kd_54", "rekd_54")),
    ]
    section = "\n".join(missing_section(lines))
    assert "| kd_54 | 1 (failed) | 15 |" in section  # and not the mean of all pairs
    assert "| rekd_54 | 1 (failed) | 12 |" in section
