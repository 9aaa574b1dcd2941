"""The check of the zoo finds what it is there to find, and its record and page are kept in step."""

import importlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import fail, run
from mmengine.config import ConfigDict
from support.isolated import Ended, run_isolated
from support.record import (
    FAIL,
    NOT_RUN,
    PASS,
    REFUSED,
    Record,
    fill_page,
    merge,
    read_records,
    regressions,
    write_records,
)
from support.zoo import one_of_each, zoo_configs

from rekd_det.models.adapters import ADAPTERS
from rekd_det.models.adapters.dense.dense import RetinaAdapter
from rekd_det.models.adapters.roi.rcnn import RCNNAdapter
from rekd_det.testing.check_detector import CheckFailed, check_detector

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def zoo_model(path):
    family, _, _ = path.partition("/")
    return next(c.model for c in zoo_configs([family]) if c.path == path)


@pytest.fixture(scope="module")
def retina():
    return zoo_model("retinanet/retinanet_r18_fpn_1x_coco.py")


@pytest.fixture(scope="module")
def faster():
    return zoo_model("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")


def test_a_sound_pair_passes(retina):
    facts = check_detector(retina)
    assert (facts.head, facts.adapter, facts.activation) == ("RetinaHead", "RetinaAdapter", "sigmoid")
    assert facts.difference == 0
    assert facts.rows > 1000


def break_rows(monkeypatch):
    monkeypatch.setattr(RetinaAdapter, "order", "image")


def break_freezing(monkeypatch):
    align = RetinaAdapter.align

    def wrong(self, feats, samples):
        with torch.enable_grad():
            (entry,) = align(self, feats, samples)
            entry.teacher = entry.teacher.clone().requires_grad_()
        return [entry]

    monkeypatch.setattr(RetinaAdapter, "align", wrong)


def detach_student(monkeypatch):
    monkeypatch.setattr(RetinaAdapter, "student_rows", lambda self: torch.cat([c.pred.detach() for c in self._calls]))


def leave_a_hook(monkeypatch):
    def wrong(self, taps):
        self.student.register_forward_hook(lambda *_: None)
        taps.add(self.student.loss_cls, self._on_loss)

    monkeypatch.setattr(RetinaAdapter, "tap", wrong)


def change_the_student(monkeypatch):
    def wrong(self, args, kwargs, output):
        RetinaAdapter.__mro__[1]._on_loss(self, args, kwargs, output)
        output.data.mul_(2)

    monkeypatch.setattr(RetinaAdapter, "_on_loss", wrong)


WRONG = dict(
    order=(break_rows, "rows of equal networks differ"),
    freezing=(break_freezing, "the teacher's rows carry a gradient"),
    detached=(detach_student, "the student's rows are detached"),
    hook=(leave_a_hook, "hooks or attributes left"),
    student=(change_the_student, "of the student changes"),
)


@pytest.mark.parametrize(("mistake", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_of_an_adapter_are_found(retina, monkeypatch, mistake, message):
    mistake(monkeypatch)
    with pytest.raises(CheckFailed, match=message):
        check_detector(retina)


def test_a_teacher_on_its_own_rois_is_found(faster, monkeypatch):
    def bind(self, student, teacher):
        self.rpns = student.rpn_head.rpn_reg.weight, teacher.rpn_head.rpn_reg.weight

    def own_rois(self, stage, feats, rois, **context):
        # As long as the proposal networks are equal, its RoIs are the student's.
        own, other = self.rpns
        rois = rois.clone()
        rois[:, 1:] += (other - own).sum()
        return self.teacher._bbox_forward(feats, rois)["cls_score"]

    monkeypatch.setattr(RCNNAdapter, "bind", bind)
    monkeypatch.setattr(RCNNAdapter, "classify", own_rois)
    with pytest.raises(CheckFailed, match="depend on its own regression, proposals or positives"):
        check_detector(faster)


def test_a_second_forward_of_the_student_is_found(retina, monkeypatch):
    extract = RetinaAdapter.extract_feat

    def twice(self, teacher, inputs):
        self.detector.backbone(inputs)
        return extract(self, teacher, inputs)

    def bind(self, student, teacher):
        self.detector = student

    monkeypatch.setattr(RetinaAdapter, "extract_feat", twice)
    monkeypatch.setattr(RetinaAdapter, "bind", bind)
    with pytest.raises(CheckFailed, match="backbone runs 2 times, alone 1"):
        check_detector(retina)


def test_an_unsupported_head_is_a_type_error(retina, monkeypatch):
    monkeypatch.delitem(ADAPTERS, next(h for h in ADAPTERS if h.__name__ == "RetinaHead"))
    with pytest.raises(TypeError, match="RetinaHead is not supported"):
        check_detector(retina)


def test_the_zoo_is_found_and_sampled_by_family_and_kind():
    configs = zoo_configs(["retinanet", "rpn", "bytetrack"])
    assert not [c for c in configs if c.family == "rpn"]  # proposals only
    assert any(c.kind[0] == "YOLOX" for c in configs if c.family == "bytetrack")  # a tracker's detector
    few = one_of_each(configs)
    assert [c.path for c in few if c.family == "retinanet"] == ["retinanet/retinanet_r18_fpn_1x_coco.py"]
    assert {c.kind for c in few} == {c.kind for c in configs}
    with pytest.raises(ValueError, match="no family 'retina'"):
        zoo_configs(["retina"])


def double(x):
    if x == "slow":
        time.sleep(60)
    if x == "dies":
        os._exit(3)
    if x == "hungry":
        return len(bytearray(4 * 2**30))
    if x == "wrong":
        raise ValueError("wrong argument")
    return 2 * x


def test_processes_are_isolated():
    arguments = [1, "wrong", "dies", "slow", "hungry", 5]
    results = {a: r for a, r, _ in run_isolated(double, arguments, jobs=2, seconds=5, gigabytes=2)}
    assert results[1] == 2
    assert results[5] == 10
    assert isinstance(results["wrong"], ValueError)
    assert str(results["wrong"]) == "wrong argument"
    assert isinstance(results["dies"], Ended)
    assert "code 3" in str(results["dies"])
    assert "more than 5 s" in str(results["slow"])
    assert isinstance(results["hungry"], MemoryError)


def test_a_record_survives_the_file(tmp_path):
    records = {c: Record(c, "x", "H", "A", "softmax", 3, PASS, "a | b") for c in ("x/b.py", "x/a.py")}
    write_records(tmp_path / "r.json", records)
    assert read_records(tmp_path / "r.json") == records
    assert read_records(tmp_path / "none.json") == {}
    (tmp_path / "r.json").write_text('[{"a": 1}]')
    with pytest.raises(ValueError, match=r"r\.json is not what tools/check_support\.py wrote"):
        read_records(tmp_path / "r.json")


def test_what_counts_as_a_regression():
    passed = Record("x/a.py", "x")
    for verdict, worse in ((PASS, False), (FAIL, True), (REFUSED, True), (NOT_RUN, False)):
        now = [replace(passed, verdict=verdict)]
        assert bool(regressions({"x/a.py": passed}, now)) is worse
        assert bool(regressions({"x/a.py": replace(passed, verdict=verdict)}, now)) is False
        assert bool(regressions({}, now)) is (verdict == FAIL)


def test_the_forks_have_a_column_of_their_own():
    before = {c: Record(c, "x", "H", "A", "softmax", 3) for c in ("x/a.py", "x/b.py")}
    now = [Record("x/a.py", "x", verdict=REFUSED), Record("x/only_the_forks_have_it.py", "x", verdict=REFUSED)]
    assert [r.config for r in regressions(before, now, forks=True)] == ["x/a.py"]
    merged = merge(before, now, forks=True)
    assert merged == before | {"x/a.py": replace(before["x/a.py"], forks=REFUSED)}
    assert not regressions(merged, now, forks=True)
    page = "".join(f"<!-- {name} -->\n<!-- end {name} -->\n" for name in ("heads", "summary", "configs"))
    page = fill_page(page, merged)
    assert "| x | a | H | A | softmax | 3 | pass | refused |  |" in page
    assert "With the forks, 1 of them were checked: 0 pass, 0 fail, 1 refused, 0 not run." in page
    # A verdict with one stack leaves the other's in place, and what can't be run leaves both.
    assert merge(merged, [replace(before["x/a.py"], rows=4)])["x/a.py"] == replace(merged["x/a.py"], rows=4)
    for forks in (False, True):
        assert merge(merged, [Record("x/a.py", "x", verdict=NOT_RUN)], forks) == merged


def test_the_page_needs_its_marks():
    with pytest.raises(ValueError, match="<!-- heads -->"):
        fill_page("no marks", {})


def test_the_committed_page_is_in_step():
    importlib.import_module("rekd_det.models.adapters.image")  # classifiers have a table of their own, written by hand
    records = read_records(DOCS / "support.json")
    page = (DOCS / "support.md").read_text()
    assert fill_page(page, records) == page


def test_every_adapter_was_proven_on_a_detector_of_the_zoo():
    proven = {r.adapter for r in read_records(DOCS / "support.json").values() if r.verdict == PASS}
    ours = [a for h, a in ADAPTERS.items() if h.__module__.startswith("mmdet.")]
    shipped = {a.__name__ for a in ours if a.__module__.startswith("rekd_det.")}
    assert shipped - proven == {"RTMDetAdapter"}  # no config of the zoo has its heads: the next test


@pytest.mark.slow
def test_rtmdet_with_shared_norms():
    model = zoo_model("rtmdet/rtmdet_tiny_8xb32-300e_coco.py")
    head = {k: v for k, v in model.bbox_head.items() if k not in ("type", "share_conv", "exp_on_reg")}
    model.bbox_head = ConfigDict(head, type="RTMDetHead")
    assert check_detector(model).adapter == "RTMDetAdapter"
    model.bbox_head.with_objectness = True
    assert check_detector(model).adapter == "RTMDetAdapter"


@pytest.mark.slow
def test_the_tool_says_what_got_worse(tmp_path):
    (tmp_path / "support.md").write_text((DOCS / "support.md").read_text())
    path = next(c.path for c in zoo_configs(["glip"]) if c in one_of_each(zoo_configs(["glip"])))
    write_records(tmp_path / "support.json", {path: Record(path, "glip")})
    command = (sys.executable, ROOT / "tools/check_support.py", "--docs", tmp_path, "--jobs", 1, "--family")
    assert f"REGRESSION {path}: refused" in fail(*command, "glip", cwd=ROOT, status=1)
    assert read_records(tmp_path / "support.json")[path].verdict == PASS  # left as it was
    run(*command, "atss", cwd=ROOT)
    assert read_records(tmp_path / "support.json")["atss/atss_r50_fpn_1x_coco.py"].adapter == "ATSSAdapter"
    assert "no family 'nothing'" in fail(*command, "nothing", cwd=ROOT, status=2)
