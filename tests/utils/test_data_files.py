"""Pickles and YAML that a config names are data: what OpenMMLab writes loads, what calls something is refused."""

import os
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from forged import Call
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.fileio import dump, load
from mmengine.structures import InstanceData

from rekd_det.utils.errors import InputError

MKDIR = Call(os.mkdir, "made-by-a-file")


class Own:
    """A class of the user's."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_openmmlab_writes_is_read(protocol):
    proposals = InstanceData(bboxes=torch.rand(3, 4), scores=torch.rand(3), labels=np.arange(3))
    content = {
        "000.jpg": proposals,
        "array": np.float32([[1, 2]]),
        "objects": np.array([None, "a"], dtype=object),
        "scalar": np.float64(3),
        "nested": OrderedDict(a=[1, (2, {3}), b"x", range(3)], b=defaultdict(list, c=[1.5]), d=defaultdict(str)),
        "sample": DetDataSample(metainfo=dict(img_id=1), gt_instances=proposals),
    }
    dump(content, "a.pkl", protocol=protocol)
    loaded = load("a.pkl")
    assert torch.equal(loaded["000.jpg"].bboxes, proposals.bboxes)
    assert (loaded["array"] == content["array"]).all()
    assert loaded["objects"].tolist() == [None, "a"]
    assert loaded["nested"] == content["nested"]
    assert torch.equal(loaded["sample"].gt_instances.scores, proposals.scores)


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle"])
@pytest.mark.parametrize(
    "code",
    [
        MKDIR,
        Call(getattr, InstanceData, "to_dict"),
        Call(eval, "1"),
        np.array([MKDIR], dtype=object),
        Call(torch.storage._load_from_bytes, b""),
        Own(),
    ],
    ids=["mkdir", "getattr", "eval", "in an array", "bytes that are no tensor", "own class"],
)
def test_a_pickle_that_calls_something_is_refused(name, code):
    with open(name, "wb") as file:
        pickle.dump({"a": code}, file)
    with pytest.raises(InputError, match=r"a pickle .* (carries code|is damaged)"):
        load(name)
    assert not Path("made-by-a-file").exists()


@pytest.mark.parametrize("key", ["__module__", "__reduce_ex__", "pop"])
@pytest.mark.parametrize("of", ["class", "instance"])
def test_a_pickle_sets_no_attribute_that_decides_what_is_called(key, of):
    """A data set pickles its items again, and pickle imports the module that a class or an instance names."""
    item = f"cmmengine.structures.instance_data\nInstanceData\n{')' if of == 'instance' else ''}".encode()
    new = b"\x81" if of == "instance" else b""
    state = pickle.dumps({key: "made_up"}, 2)[2:-1]
    slots = state if of == "instance" else b"N" + state + b"\x86"
    Path("a.pkl").write_bytes(b"\x80\x02" + item + new + slots + b"b.")
    with pytest.raises(InputError, match="attributes of"):
        load("a.pkl")
    assert InstanceData.__module__ == "mmengine.structures.instance_data"


_ELEMENT = b"cmmengine.structures.instance_data\nInstanceData\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (_ELEMENT + b")\x81X\x02\0\0\0__K\x01s.", "items of a InstanceData"),
        (_ELEMENT + b")\x81(X\x02\0\0\0__K\x01u.", "items of a InstanceData"),
        (_ELEMENT + b")\x81K\x01a.", "items of a InstanceData"),
        (_ELEMENT + b")\x81(K\x01e.", "items of a InstanceData"),
        (_ELEMENT + b")\x81)R.", "a call of InstanceData"),
        (b"c__builtin__\ndict\n" + _ELEMENT + b")\x81\x85R.", "a call of dict"),
        (b"c__builtin__\nset\n" + _ELEMENT + b")\x81\x85R.", "a call of set"),
        (b"(I1\ni__builtin__\nlist\n.", "an instance in another form"),
        (b"\x96\x01\0\0\0\0\0\0\0a\x98.", "an instance in another form"),
        (b"ccopy_reg\n_reconstructor\n(c__builtin__\nlist\nc__builtin__\nlist\nNtR.", "copyreg._reconstructor"),
        (_ELEMENT + b")\x81}X\x0c\0\0\0_data_fieldsK\x01sb.", "attributes of a InstanceData"),
    ],
)
def test_a_pickle_fills_and_calls_data_alone(code, message):
    """Setting an item of a data sample sets any attribute, by which NumPy takes it for any part of the memory."""
    Path("a.pkl").write_bytes(b"\x80\x02" + code)
    with pytest.raises(InputError, match=rf"carries code \({message}\)"):
        load("a.pkl")


def test_a_tensor_inside_a_pickle_carries_no_code():
    torch.save(MKDIR, "a.pth")
    with open("a.pkl", "wb") as file:
        pickle.dump(Call(torch.storage._load_from_bytes, Path("a.pth").read_bytes()), file)
    with pytest.raises(InputError):
        load("a.pkl")
    assert not Path("made-by-a-file").exists()


def test_a_tensor_larger_than_its_data_is_refused():
    """The rest would be uninitialised memory."""
    arguments = (torch.zeros(2)._typed_storage(), 0, (200_000,), (1,), False, OrderedDict())
    with open("a.pkl", "wb") as file:
        pickle.dump(Call(torch._utils._rebuild_tensor_v2, *arguments), file)
    with pytest.raises(InputError, match="a tensor that is larger than its storage"):
        load("a.pkl")


def test_a_class_that_the_user_allows_is_read():
    dump(Own(), "a.pkl")
    with torch.serialization.safe_globals([Own]):
        assert isinstance(load("a.pkl"), Own)


def test_yaml_calls_nothing_and_keeps_tuples():
    dump(dict(a=(1, 2)), "a.yaml")
    assert load("a.yaml") == dict(a=(1, 2))
    for code in ("!!python/object/apply:os.mkdir [made-by-a-file]", "!!python/name:os.mkdir", "!!python/module:os"):
        Path("b.yml").write_text(code)
        with pytest.raises(Exception, match="could not determine a constructor"):
            load("b.yml")
    assert not Path("made-by-a-file").exists()


@pytest.mark.parametrize("content", [np.array([[0, 0], [0, MKDIR]], dtype=object), None], ids=["code", "empty"])
def test_the_hierarchy_of_openimages_calls_nothing(content):
    if content is None:
        Path("tree.npy").touch()
    else:
        np.save("tree.npy", content, allow_pickle=True)
    Path("labels.csv").write_text("/m/1,cat,1\n")
    Path("images.txt").touch()
    files = dict(ann_file="images.txt", label_file="labels.csv", hierarchy_file="tree.npy", meta_file="metas.pkl")
    with pytest.raises(InputError, match=r"hierarchy_file='tree\.npy' is not a NumPy matrix"):
        DATASETS.build(dict(type="mmdet.OpenImagesChallengeDataset", **files))
    assert not Path("made-by-a-file").exists()
