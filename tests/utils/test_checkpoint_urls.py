"""A checkpoint that is not a file: whatever way its name leads to mmengine's loader, it is data."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mmengine.hub
import pytest
import torch
from forged import Call
from http_folder import http_folder
from mmengine.fileio import dump, load
from mmengine.model import BaseModule
from mmengine.runner import checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, load_from_http

from rekd_det.utils import compat
from rekd_det.utils.checkpoint import check_checkpoint_file, load_checkpoint_file
from rekd_det.utils.errors import CheckpointError

READERS = [load_checkpoint_file, check_checkpoint_file]
CODE = Call(os.mkdir, "made-by-a-checkpoint")


def content(value: float) -> dict:
    return {"state_dict": {"weight": torch.full((2, 2), value)}}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A served folder, its address and what was asked for; and an empty cache."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("TORCH_HOME", "torch"), ("MMENGINE_HOME", "mmengine")):
        monkeypatch.setenv(name, str(tmp_path / name / value))
    folder = tmp_path / "site"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    torch.save(content(1), folder / "a" / "epoch_12.pth")
    torch.save(content(2), folder / "b" / "epoch_12.pth")
    torch.save({**content(3), "meta": CODE}, folder / "code.pth")
    (folder / "page.pth").write_text("<html>please log in</html>")
    with http_folder(folder) as (address, asked):
        yield folder, address, asked


def weight(name: str) -> float:
    return load_checkpoint_file(name)["state_dict"]["weight"][0, 0].item()


def cached(tmp_path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "TORCH_HOME").rglob("*") if p.is_file() and p.suffix != ".lock")


def test_two_urls_with_one_file_name_are_two_checkpoints(site, tmp_path):
    _, address, asked = site
    assert [weight(f"{address}/{name}/epoch_12.pth") for name in "ab"] == [1, 2]
    assert [weight(f"{address}/{name}/epoch_12.pth") for name in "ab"] == [1, 2]
    assert asked == {"/a/epoch_12.pth": 1, "/b/epoch_12.pth": 1}
    assert cached(tmp_path) == ["epoch_12.pth"] * 2


@pytest.mark.slow
def test_many_processes_download_once(site):
    _, address, asked = site
    url = f"{address}/a/epoch_12.pth"
    code = f"from rekd_det.utils.checkpoint import load_checkpoint_file as f; print(f({url!r})['state_dict']['weight'])"
    with ThreadPoolExecutor() as pool:
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(3)))
    assert [d.returncode for d in done] == [0] * 3, done
    assert "downloading" in "".join(d.stderr for d in done)
    assert sum(asked.values()) == 1


@pytest.mark.parametrize("read", READERS)
def test_code_behind_a_url_is_refused_and_does_not_run(site, tmp_path, read, monkeypatch):
    # What the web advises for mmengine's error with torch 2.6; without it, see apis/test_nothing_executed.py.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    url = f"{site[1]}/code.pth"
    with pytest.raises(CheckpointError, match=r"code.pth' carries code \(posix.mkdir\) and was refused"):
        read(url)
    assert not Path("made-by-a-checkpoint").exists()
    assert cached(tmp_path) == []
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in os.environ
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_checkpoint_is_named_and_not_kept(site, tmp_path, read):
    folder, address, _ = site
    damaged = rf"{address}/page.pth' is damaged or not a PyTorch checkpoint \(26 bytes"
    with pytest.raises(CheckpointError, match=damaged):
        read(f"{address}/page.pth")
    with pytest.raises(CheckpointError, match=rf"{address}/none.pth' could not be fetched .*404"):
        read(f"{address}/none.pth")
    assert cached(tmp_path) == []
    torch.save(content(4), folder / "page.pth")
    assert weight(f"{address}/page.pth") == 4


def with_hash(folder: Path, value: float) -> str:
    torch.save(content(value), folder / "x.pth")
    name = f"net-{hashlib.sha256((folder / 'x.pth').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "x.pth").rename(folder / name)
    return name


def test_the_hash_in_a_name_is_checked(site, tmp_path):
    folder, address, _ = site
    name = with_hash(folder, 5)
    assert weight(f"{address}/{name}") == 5
    other = with_hash(folder, 6)
    torch.save(content(7), folder / other)
    with pytest.raises(CheckpointError, match=rf"{other}' could not be fetched .* invalid hash value"):
        load_checkpoint_file(f"{address}/{other}")
    assert cached(tmp_path) == [name]


def test_a_date_in_a_name_is_no_hash(site):
    folder, address, _ = site
    torch.save(content(8), folder / "net-20200504.pth")
    assert weight(f"{address}/net-20200504.pth") == 8


def test_what_torch_has_downloaded_is_used_if_its_hash_agrees(site, tmp_path):
    folder, address, asked = site
    name = with_hash(folder, 9)
    hub = tmp_path / "TORCH_HOME" / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / name).write_bytes((folder / name).read_bytes())
    assert weight(f"{address}/{name}") == 9
    assert not asked
    torch.save(content(1), hub / name)
    torch.save(content(1), hub / "epoch_12.pth")
    assert weight(f"{address}/{name}") == 9
    assert weight(f"{address}/b/epoch_12.pth") == 2


def test_a_download_that_was_killed_leaves_nothing(site, tmp_path):
    url = f"{site[1]}/a/epoch_12.pth"
    load_checkpoint_file(url)
    (copy,) = (p for p in (tmp_path / "TORCH_HOME").rglob("epoch_12.pth"))
    copy.rename(copy.parent / ".epoch_12.pth.7.partial.0123456789abcdef.partial")
    assert weight(url) == 1
    assert cached(tmp_path) == ["epoch_12.pth"]


def test_first_weights_of_a_module(site, tmp_path):
    """``init_cfg`` goes from mmengine's BaseModule straight to mmengine's loader."""

    class Layer(torch.nn.Linear, BaseModule):
        def __init__(self, url):
            torch.nn.Linear.__init__(self, 2, 2, bias=False)
            self._is_init, self.init_cfg = False, dict(type="Pretrained", checkpoint=url)

    layer = Layer(f"{site[1]}/b/epoch_12.pth")
    layer.init_weights()
    assert layer.weight.eq(2).all()
    with pytest.raises(CheckpointError, match="carries code"):
        Layer(f"{site[1]}/code.pth").init_weights()
    assert not Path("made-by-a-checkpoint").exists()


@pytest.fixture
def tables(site, tmp_path, monkeypatch):
    """mmengine's tables of names, with one of each scheme that leads to forged files."""
    _, address, _ = site
    folder = tmp_path / "tables"
    folder.mkdir()
    for file in Path(mmengine.hub.__file__).parent.glob("*.json"):
        added = {} if file.stem == "deprecated" else {"forged": f"{address}/code.pth"}
        if "resnet18" in load(str(file)):
            added["resnet18"] = f"{address}/none.pth"
        dump({**load(str(file)), **added}, str(folder / file.name))
    (tmp_path / "hub").symlink_to(folder)
    monkeypatch.setattr(mmengine, "__path__", [str(tmp_path)])
    monkeypatch.setattr(mmengine.hub, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(checkpoint, "get_torchvision_models", None)  # so that it comes back after the test
    compat._serve_torchvision_urls()
    home = Path(os.environ["MMENGINE_HOME"])
    home.mkdir(parents=True)
    dump({"own": "own.pth"}, str(home / "open_mmlab.json"))
    torch.save(CODE, home / "own.pth")


SCHEMES = ["torchvision", "modelzoo", "open-mmlab", "openmmlab", "mmcls"]


@pytest.mark.parametrize("name", [*(f"{scheme}://forged" for scheme in SCHEMES), "open-mmlab://own"])
def test_names_of_tables_lead_to_data(tables, name, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match="carries code") as caught:
        load_checkpoint_file(name)
    assert name in str(caught.value)
    assert not Path("made-by-a-checkpoint").exists()


def test_a_name_of_torchvision_needs_no_torchvision(tables):
    with pytest.raises(CheckpointError, match=r"'torchvision://resnet18'.*/none.pth.*404.*init_cfg.checkpoint"):
        load_checkpoint_file("torchvision://resnet18")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_name_that_no_table_has(tables, scheme):
    with pytest.raises(CheckpointError, match=f"'{scheme}://nothing': mmengine has no weights of that name"):
        load_checkpoint_file(f"{scheme}://nothing")


@pytest.mark.parametrize("name", ["pavi://a", "s3://a/b", "petrel://a/b", "x:s3://a/b", "ftp://a/b", "file:///a/b"])
def test_every_other_scheme_is_refused_by_name(name):
    with pytest.raises(CheckpointError, match=f"checkpoint '{name}'"):
        load_checkpoint_file(name)


def test_storage_that_a_client_serves_is_data(site, monkeypatch):
    backend = type("Petrel", (), dict(get=lambda self, name: (site[0] / name[5:]).read_bytes()))
    monkeypatch.setattr(checkpoint, "get_file_backend", lambda *args, **kwargs: backend())
    assert weight("s3://a/epoch_12.pth") == 1
    with pytest.raises(CheckpointError, match="carries code"):
        load_checkpoint_file("s3://code.pth")
    assert not Path("made-by-a-checkpoint").exists()


@pytest.mark.parametrize("how", ["file", "mmengine"])
def test_a_scheme_of_the_users_own_stays_and_is_safe(site, how, monkeypatch):
    folder, address, _ = site
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))

    @CheckpointLoader.register_scheme("mine://")
    def load_from_mine(filename, map_location):
        if how == "mmengine":
            return load_from_http(f"{address}/{filename[7:]}", map_location)
        return torch.load(folder / filename[7:], map_location, weights_only=False)

    compat.apply()
    assert weight("mine://b/epoch_12.pth") == 2
    with pytest.raises(CheckpointError, match=r"'mine://code.pth'|carries code") as caught:
        load_checkpoint_file("mine://code.pth")
    assert "mine://code.pth" in str(caught.value)
    assert not Path("made-by-a-checkpoint").exists()


def test_the_config_text_that_mmengine_would_run_on_resume_is_left_out(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({**content(1), "meta": dict(epoch=1, config="import os")}, path)
    assert load_checkpoint_file(str(path))["meta"] == dict(epoch=1)
