"""NumPy's names in a checkpoint or a pickle give arrays of plain data, and nothing that could become code."""

import pickle

import numpy as np
import pytest
import torch
from forged import Call
from mmengine.fileio import load
from mmengine.logging import HistoryBuffer

from rekd_det.utils.checkpoint import load_checkpoint_file
from rekd_det.utils.errors import CheckpointError, InputError

_reconstruct, _scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_frombuffer = np.empty(1).__reduce_ex__(5)[0]


def dtype(code, *changes):
    state = list(np.dtype(code).__reduce__()[2])
    for position, value in changes:
        state[position] = value
    return Call(np.dtype, code, False, True, state=tuple(state))


def array(shape, code, content):
    return Call(_reconstruct, np.ndarray, (0,), b"b", state=(1, shape, code, False, content))


FORGED = {
    "an array of pointers": Call(np.ndarray, (1,), "O", bytes(8)),
    "an array over bytes": Call(np.ndarray, (8,), "u1", bytes(8)),
    "a dtype with the flags of pointers": array((1,), dtype("f8", (7, 63)), [0]),
    "objects from bytes": array((1,), dtype("O"), bytes(8)),
    "more objects than the list has": array((9,), dtype("O"), [0]),
    "less bytes than the shape needs": array((9,), dtype("f8"), bytes(8)),
    "more dimensions than NumPy has": array((0,) + (1,) * 39, dtype("f8"), b""),
    "a negative length": array((-1, -1), dtype("f8"), bytes(8)),
    "a record": array((1,), dtype("f8", (4, {"a": (np.dtype("f8"), 0)}), (3, ("a",))), bytes(8)),
    "a record by its code": Call(np.dtype, "f8,f8", False, True),
    "a record as a list": Call(np.dtype, [("a", "O")], False, True),
    "a scalar of an object": Call(_scalar, dtype("O"), b"x"),
    "a scalar of too few bytes": Call(_scalar, dtype("f8"), b"x"),
    "another class than an array": Call(_reconstruct, dict, (0,), b"b"),
    "a buffer of objects": Call(_frombuffer, bytes(8), dtype("O"), (1,), "C"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_checkpoint_that_forges_arrays_is_refused(tmp_path, name):
    torch.save({"state_dict": {"w": torch.ones(1)}, "message_hub": FORGED[name]}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth' (carries code|is damaged)"):
        load_checkpoint_file(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", FORGED)
def test_a_pickle_that_forges_arrays_is_refused(tmp_path, name, protocol):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": FORGED[name]}, protocol))
    with pytest.raises(InputError, match="a pickle that the config names"):
        load(str(tmp_path / "x.pkl"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_plain_kind_are_read(tmp_path, protocol):
    content = [
        *(np.arange(6).astype(code).reshape(2, 3) for code in "?bBhHiIlLqQefd"),
        np.arange(6, dtype=">i4")[::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.array([[None, "a"], [1, {"b": 2.5}]], dtype=object),
        np.zeros((0, 4), np.float32),
        np.array(3.5),
        np.complex64(1 + 2j),
        np.float64(2.5),
        np.int64(-7),
    ]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    for loaded, written in zip(load(str(tmp_path / "x.pkl")), content, strict=True):
        assert loaded.dtype.newbyteorder("=") == written.dtype.newbyteorder("=")  # NumPy reads as the machine writes
        assert loaded.shape == written.shape
        assert loaded.tolist() == written.tolist()


def test_a_history_goes_on_and_is_saved_as_numpys_own(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save({"state_dict": {"w": torch.ones(1)}, "message_hub": {"loss": history}}, tmp_path / "a.pth")
    loaded = load_checkpoint_file(str(tmp_path / "a.pth"))
    loaded["message_hub"]["loss"].update(6.0)
    assert loaded["message_hub"]["loss"].mean() == 3.0
    torch.save(loaded, tmp_path / "b.pth")
    again = load_checkpoint_file(str(tmp_path / "b.pth"))["message_hub"]["loss"]
    assert again.data[0].tolist() == [1.0, 2.0, 6.0]
    assert b"plain_arrays" not in (tmp_path / "b.pth").read_bytes()
