"""A third party's config, with its own ``custom_imports``, is the base of a pair as it stands."""

import sys
from pathlib import Path

import mmdet
import pytest
import torch
from commands import run
from mmengine.config import Config
from tiny_pair import TinyPair, write_tiny_pair

from rekd_det.utils.read_as_data import load_plain

ROOT = Path(__file__).resolve().parents[1]
THEIR_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"

_EXTENSION = """
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS


@MODELS.register_module()
class TheirBackbone(ResNet):
    pass
"""
_THEIRS = """
_base_ = './student.py'
custom_imports = dict(imports=['their_extension'], allow_failed_imports=False)
model = dict(backbone=dict(type='TheirBackbone'))
"""
_PAIR = """
_base_ = ['./theirs.py', '{root}/configs/_base_/rekd.py']
model = dict(
    _delete_=True, **_base_.distill, architecture=_base_.model,
    teacher=dict(cfg_path='{folder}/theirs.py'), teacher_ckpt='{folder}/student.pth',
)
"""
_INFER = """
import sys
from mmdet.apis import DetInferencer
predicted = DetInferencer(sys.argv[1], sys.argv[2], device='cpu', show_progress=False)(sys.argv[3])['predictions']
print('DETECTED', len(predicted[0]['labels']))
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> TinyPair:
    pair = write_tiny_pair(tmp_path_factory.mktemp("pair"))
    for name, text in {"their_extension.py": _EXTENSION, "theirs.py": _THEIRS, "infer.py": _INFER}.items():
        (pair.folder / name).write_text(text)
    (pair.folder / "theirs_pair.py").write_text(_PAIR.format(root=ROOT, folder=pair.folder))
    return pair


def python(pair: TinyPair, *arguments: object) -> str:
    return run(sys.executable, *arguments, cwd=pair.folder, PYTHONPATH=f"{pair.folder}:{ROOT}")


@pytest.mark.slow
def test_it_trains_and_mmdetections_own_tools_take_it(pair):
    config, checkpoint = pair.folder / "theirs_pair.py", pair.folder / "ours" / "iter_2.pth"
    python(pair, ROOT / "tools/train.py", config, "--work-dir", "ours")
    assert any(key.startswith("architecture.backbone") for key in load_plain(checkpoint)["state_dict"])
    dumped = pair.folder / "ours" / "theirs_pair.py"
    imports = Config.fromfile(str(dumped), import_custom_modules=False).custom_imports
    assert imports == dict(imports=["their_extension", "rekd_det"], allow_failed_imports=False)
    # What mmengine has written is enough for whoever knows nothing of this package's tools.
    python(pair, THEIR_TOOLS / "train.py", dumped, "--work-dir", "theirs")
    state, theirs = (load_plain(pair.folder / p / "iter_2.pth")["state_dict"] for p in ("ours", "theirs"))
    assert all(torch.equal(state[key], theirs[key]) for key in state)
    assert "coco/bbox_mAP" in python(pair, THEIR_TOOLS / "test.py", config, checkpoint)
    image = next((pair.data / "val2017").iterdir())
    for source in (config, dumped):
        assert "DETECTED 10" in python(pair, "infer.py", source, checkpoint, image)
