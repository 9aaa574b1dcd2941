import os
import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forged import Call, remove_storages
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import MultiStepLR, OneCycleLR
from mmengine.runner import get_priority
from torch import _weights_only_unpickler, nn
from torch._tensor import _rebuild_from_type_v2

from rekd_det.engine.hooks import StudentWeightsHook
from rekd_det.utils.checkpoint import check_checkpoint_file, load_checkpoint_file, load_weights
from rekd_det.utils.checkpoint_content import strip_student_prefix
from rekd_det.utils.errors import CheckpointError


def save(path: Path, content, zipped: bool = True) -> str:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return str(path)


def cut(path: str, share: float) -> str:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])
    return path


def larger_than_its_storage(path: Path) -> str:
    """A checkpoint in the old format whose second tensor finds an empty storage."""
    empty = torch.zeros(0)
    larger = Call(torch._utils._rebuild_tensor_v2, empty.storage(), 0, (99,), (1,), False, OrderedDict())
    return save(path, {"state_dict": {"empty": empty, "larger": larger}}, zipped=False)


def part_of_a_storage(path: Path) -> str:
    """A checkpoint in the old format, with a storage as torch 0.3 wrote a part of another."""
    content = Path(save(path, weights(), zipped=False)).read_bytes()
    count = pickle.BININT2 + (4096).to_bytes(2, "little")
    part = pickle.BINUNICODE + b"\x01\0\0\0p" + pickle.BININT1 + b"\0" + count + pickle.TUPLE3
    path.write_bytes(content.replace(count + pickle.NONE, count + part))
    return str(path)


def weights() -> dict:
    return {"state_dict": {"weight": torch.arange(4096.0)}}


def tiny_model() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1), bn=nn.BatchNorm2d(2)))


READERS = [load_checkpoint_file, check_checkpoint_file]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_sound_checkpoint_loads(tmp_path, zipped):
    path = save(tmp_path / "ok.pth", weights(), zipped)
    check_checkpoint_file(path)
    assert torch.equal(load_checkpoint_file(path)["state_dict"]["weight"], weights()["state_dict"]["weight"])


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "a").write_text("hello\n") and str(p / "a"), "not a PyTorch checkpoint"),
        (lambda p: cut(save(p / "a", weights()), 0.5), "is damaged"),
        (lambda p: cut(save(p / "a", weights(), False), 0.5), "is damaged"),
        (lambda p: cut(save(p / "a", weights(), False), 0.01), "is damaged"),
        (lambda p: remove_storages(save(p / "a", weights(), False)), "is damaged .* 1 of 1 storages have no data"),
        (lambda p: larger_than_its_storage(p / "a"), "is damaged .* storage has wrong byte size"),
        (lambda p: part_of_a_storage(p / "a"), "is damaged .* storage \\d+ is a part of another"),
        (lambda p: save(p / "a", [1, 2]), "holds no weights"),
        (lambda p: save(p / "a", {"state_dict": {}}), "holds no weights"),
    ],
    ids=[
        *("text", "half-zip", "half-legacy", "head-legacy"),
        *("dataless-legacy", "larger-legacy", "part-legacy"),
        *("list", "no-keys"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path, read, make, message):
    path = make(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert path in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, read, zipped):
    trace = tmp_path / "ran"
    path = save(tmp_path / "a", {**weights(), "meta": Call(os.mkdir, str(trace))}, zipped)
    with pytest.raises(CheckpointError, match=r"carries code \(posix.mkdir\) and was refused"):
        read(path)
    assert not trace.exists()


def test_reading_one_changes_nothing_of_what_torch_may_load(tmp_path):
    """mmengine's fork took HistoryBuffer from it; a wider list would make torch.load unsafe for others."""
    before = dict(_weights_only_unpickler._get_allowed_globals()), set(torch.serialization.get_safe_globals())
    path = save(tmp_path / "a", {**weights(), "message_hub": {"loss": HistoryBuffer([1.0], [1])}})
    history = load_checkpoint_file(path)["message_hub"]["loss"]
    history.update(3.0)
    assert type(history) is HistoryBuffer and history.mean() == 2.0
    assert before == (_weights_only_unpickler._get_allowed_globals(), set(torch.serialization.get_safe_globals()))
    with pytest.raises(pickle.UnpicklingError, match="HistoryBuffer"):
        torch.load(path, weights_only=True)


# NumPy would make an array of it that shows 64 bytes of the process.
INTERFACE = {"__array_interface__": {"version": 3, "shape": (64,), "typestr": "|u1", "data": b"A"}}
MEMORY = Call(OrderedDict, state=INTERFACE)
HISTORY = {"max_length": 9, "_log_history": np.ones(1), "_count_history": np.ones(1)}


@pytest.mark.parametrize(
    "forged",
    [
        Call(getattr, HistoryBuffer, "__init__"),
        Call(getattr, HistoryBuffer, "register_statistics"),
        Call(getattr, torch.Tensor, "mean"),
        Call(HistoryBuffer, MEMORY, MEMORY),
        Call(HistoryBuffer, state={**HISTORY, "_log_history": MEMORY, "_count_history": MEMORY}),
        Call(HistoryBuffer, state={**HISTORY, "_log_history": np.array([None])}),
        Call(_rebuild_from_type_v2, Call(getattr, HistoryBuffer, "current"), OrderedDict, (), None),
        Call(OrderedDict, state={"pop": OrderedDict}),
        Call(Counter, state={"get": Counter}),
        OrderedDict(nested=[(Call(OrderedDict, state={"as_subclass": 1}),)]),
        np.array([Call(OrderedDict, state={"as_subclass": 1})]),
        Call(bytearray, np.array([None])),
        Call(torch.storage.TypedStorage, state=INTERFACE),
        Call(torch.storage.UntypedStorage, state=INTERFACE),
    ],
    ids=[
        *("getattr init", "getattr register", "getattr of another class", "history of any memory"),
        *("history's values of any memory", "history of objects", "a call of anything", "own pop", "own get", "inside"),
        *("inside an array", "addresses of objects", "storage with attributes", "bytes with attributes"),
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_what_hides_behind_allowed_names_is_refused(tmp_path, read, forged):
    path = save(tmp_path / "a", {**weights(), "meta": forged})
    with pytest.raises(CheckpointError, match=r"carries code \(.*\) and was refused|object is not callable"):
        read(path)


def test_a_class_that_the_user_allows_comes_without_its_dangers(tmp_path):
    """Forums advise to allow HistoryBuffer itself; its place is taken all the same."""
    forged = Call(HistoryBuffer, state={**HISTORY, "_log_history": MEMORY, "_count_history": MEMORY})
    path = save(tmp_path / "a", {**weights(), "meta": forged})
    with torch.serialization.safe_globals([HistoryBuffer, np.ndarray]), pytest.raises(CheckpointError, match="refused"):
        load_checkpoint_file(path)


def test_what_trainings_save_beside_weights_is_read(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    schedulers = [
        OneCycleLR(optimizer, eta_max=0.1, total_steps=9),
        MultiStepLR(optimizer, milestones=[3, 3, 5]),
    ]
    states = [s.state_dict() for s in schedulers]
    content = {
        **weights(),
        "optimizer": optimizer.state_dict(),
        "param_schedulers": states,
        "meta": dict(empty=np.zeros((0, 4)), none=b"", low=np.float32(2), objects=np.array([{"a": 1}, None], object)),
        "message_hub": {"empty": HistoryBuffer(), "loss": HistoryBuffer([1, 2], [1, 1], max_length=np.int64(5))},
    }
    found = load_checkpoint_file(save(tmp_path / "a", content))
    assert found["param_schedulers"] == states
    schedulers[0].load_state_dict(found["param_schedulers"][0])
    schedulers[0].step()
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert found["meta"]["empty"].shape == (0, 4) and found["meta"]["none"] == b""
    assert found["meta"]["objects"].tolist() == [{"a": 1}, None]
    assert found["message_hub"]["loss"].mean() == 1.5


class OwnStatistics:
    """A history whose state says what computes its mean."""

    def __reduce__(self):
        values = dict(max_length=9, _log_history=np.ones(1), _count_history=np.ones(1))
        return HistoryBuffer, (), {**values, "statistics_methods": {"mean": OrderedDict}}


def test_a_checkpoint_does_not_say_what_computes_the_statistics(tmp_path):
    path = save(tmp_path / "a", {**weights(), "message_hub": {"loss": OwnStatistics()}})
    assert load_checkpoint_file(path)["message_hub"]["loss"].statistics("mean") == 1.0
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics("mean") == 2.0


@pytest.mark.parametrize("meta", [torch.zeros(2), "config", ["config"], 3], ids=["tensor", "text", "list", "number"])
def test_what_is_no_meta_is_left_out(tmp_path, meta):
    """mmengine's resume would look for 'config' in it."""
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": meta}, tmp_path / "x.pth")
    assert "meta" not in load_checkpoint_file(str(tmp_path / "x.pth"))


def test_only_the_leading_prefix_goes_and_only_the_student_stays():
    state = {
        "architecture.backbone.w": torch.ones(1),
        "architecture.neck.architecture.w": torch.ones(1),
        "distiller.connectors.w": torch.ones(1),
        "teacher.backbone.w": torch.ones(1),
    }
    assert list(strip_student_prefix(state)) == ["backbone.w", "neck.architecture.w"]
    assert strip_student_prefix(state)["backbone.w"] is state["architecture.backbone.w"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_plain_detector_keeps_its_names(prefix):
    state = {prefix + "backbone.w": torch.ones(1), prefix + "head.architecture.w": torch.ones(1)}
    assert list(strip_student_prefix(state)) == ["backbone.w", "head.architecture.w"]


def test_module_versions_survive():
    algorithm = nn.Module()
    algorithm.architecture = tiny_model()
    stripped = strip_student_prefix(algorithm.state_dict())
    assert stripped._metadata["bn"] == {"version": 2}
    assert set(stripped._metadata) == {"", "conv", "bn"}
    plain = strip_student_prefix(tiny_model().state_dict())
    assert plain._metadata == stripped._metadata


def test_missing_and_unknown_weights_are_listed():
    state = tiny_model().state_dict()
    state["head.w"] = state.pop("conv.bias")
    with pytest.raises(CheckpointError) as caught:
        load_weights(tiny_model(), state, "some.pth")
    text = str(caught.value)
    assert "some.pth does not fit Sequential" in text
    assert "missing in the checkpoint (1): conv.bias" in text
    assert "unknown to the model (1): head.w" in text


def test_weights_without_batch_counters_load():
    source, target = tiny_model(), tiny_model()
    state = source.state_dict()
    del state["bn.num_batches_tracked"]
    load_weights(target, state, "old.pth")
    assert torch.equal(target.conv.weight, source.conv.weight)


@pytest.mark.parametrize("nested", [True, False], ids=["state_dict", "flat"])
def test_the_hook_gives_the_runner_the_students_weights(nested):
    student = tiny_model()
    state = {f"architecture.{key}": value for key, value in student.state_dict().items()}
    checkpoint = {"state_dict": state, "ema_state_dict": {}} if nested else dict(state)
    runner = SimpleNamespace(model=tiny_model(), _load_from="some.pth")
    StudentWeightsHook().after_load_checkpoint(runner, checkpoint)
    assert list(checkpoint) == ["state_dict"]
    assert torch.equal(checkpoint["state_dict"]["conv.weight"], student.conv.weight)
    assert torch.equal(runner.model.conv.weight, student.conv.weight)


def test_the_hook_goes_before_the_ema():
    assert get_priority(StudentWeightsHook.priority) < get_priority(EMAHook.priority)
