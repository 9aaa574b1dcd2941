"""What is said when a run fails: one message, and never without a way to where the error was raised."""

from pathlib import Path

import pytest
from tiny_pair import TinyPair, write_tiny_pair

_OWN = """
from mmdet.models.backbones import ResNet
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from torch import nn

@MODELS.register_module(force=True)
class OwnBackbone(ResNet):
    def __init__(self, sizes=None, **kwargs):
        super().__init__(**kwargs)
        self.count = len(sizes)  # the backbone's mistake

@MODELS.register_module(force=True)
class OwnLoss(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()

    def forward(self, *args, **kwargs):
        return len(None)  # the loss's mistake

@HOOKS.register_module(force=True)
class OwnHook(Hook):
    def __init__(self, late=False):
        if not late:
            raise ValueError('a hook of mine')  # the hook's mistake
        self.late = late

    def before_train(self, runner):
        raise ValueError('a late hook of mine')  # the hook's late mistake
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> TinyPair:
    pair = write_tiny_pair(tmp_path_factory.mktemp("pair"))
    (pair.folder / "own_parts.py").write_text(_OWN)
    for name, text in {
        "backbone": "model = dict(architecture=dict(backbone=dict(type='OwnBackbone')))",
        "loss": "model = dict(architecture=dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type='OwnLoss')))))",
        "hook": "custom_hooks = [dict(type='OwnHook')]",
        "late_hook": "custom_hooks = [dict(type='OwnHook', late=True)]",
    }.items():
        imports = "custom_imports = dict(imports=['rekd_det', 'own_parts'], allow_failed_imports=False)"
        (pair.folder / f"{name}.py").write_text(f"_base_ = './pair.py'\n{imports}\n{text}\n")
    return pair


@pytest.fixture
def train(pair, tmp_path, monkeypatch, run_tool, capfd):
    """Run the tool; returns how it ended and what it wrote to stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(pair.folder))

    def call(config: str, *arguments: str) -> tuple[BaseException, str]:
        with pytest.raises((SystemExit, ValueError, TypeError)) as left:
            run_tool("train.py", pair.folder / f"{config}.py", *arguments)
        return left.value, capfd.readouterr().err

    return call


def log() -> str:
    (path,) = Path("work_dirs").rglob("*.log")
    return path.read_text()


@pytest.mark.parametrize(
    ("config", "mistake"), [("backbone", "the backbone's mistake"), ("hook", "the hook's mistake")]
)
def test_an_error_while_own_code_is_built_shows_its_traceback(train, config, mistake):
    left, err = train(config)
    assert isinstance(left, SystemExit)
    assert f"# {mistake}" in err
    assert "own_parts.py" in err
    assert str(left.code).startswith(f"error: Own{config.title()}() can't be built: ")
    assert "--traceback" not in left.code


@pytest.mark.parametrize(("config", "line"), [("loss", "OwnLoss"), ("late_hook", "a late hook of mine")])
def test_an_error_while_own_code_runs_keeps_its_traceback(train, config, line):
    left, _ = train(config)
    assert not isinstance(left, SystemExit)
    assert left.__traceback__ is not None
    assert "the run has failed" in log()
    assert "own_parts.py" in log()


def test_another_error_shows_it_on_demand_and_in_the_log(train):
    late = ("--cfg-options", "train_dataloader.dataset.pipeline.0.to_float=1")
    left, err = train("pair", *late)
    assert "Traceback" not in err
    assert "LoadImageFromFile" in left.code
    assert f"(the traceback is in {next(Path('work_dirs').rglob('*.log'))})" in left.code
    assert "Traceback (most recent call last)" in log()
    assert "build_from_cfg" in log()
    left, err = train("pair", "--traceback", *late)
    assert "Traceback (most recent call last)" in err
    assert "build_from_cfg" in err
    assert "the traceback is in" not in left.code


def test_an_error_before_there_is_a_log_names_the_option(train, monkeypatch):
    monkeypatch.setattr("mmengine.logging.MMLogger._instance_dict", {})
    left, err = train("none")
    assert left.code.endswith("(--traceback shows where it was raised)")
    assert "Traceback" not in err
    _, err = train("none", "--traceback")
    assert "InputError" in err
