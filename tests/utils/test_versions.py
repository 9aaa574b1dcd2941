"""Packages that do not go together are named when rekd_det is imported."""

import importlib

import pytest
import torch

from rekd_det.utils import versions


def installed(monkeypatch, **found):
    def version(package):
        try:
            return found[package.replace("-", "_")]
        except KeyError:
            raise versions.PackageNotFoundError(package) from None

    monkeypatch.setattr(versions, "version", version)


def test_a_torch_that_runs_code_of_checkpoints_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    with pytest.raises(
        ImportError, match=r"torch 2\.5\.1\+cu121 reads checkpoints without weights_only.*install torch 2\.6"
    ):
        versions.check()


@pytest.mark.parametrize("mmcv", ["2.2.0", "2.3.6rc1"])
def test_an_mmcv_that_mmdet_refuses_is_named(monkeypatch, mmcv):
    installed(monkeypatch, mmcv=mmcv, mmdet="3.3.0")
    with pytest.raises(ImportError, match=rf"mmdet 3\.3\.0 accepts mmcv < 2\.2, and mmcv {mmcv} is installed: install"):
        versions.check()


def test_the_forks_go_together(monkeypatch):
    installed(monkeypatch, onedl_mmcv="2.3.6", onedl_mmdetection="3.5.1")
    versions.check()


def test_an_mmcv_for_another_torch_is_named(monkeypatch):
    def fail(name):
        raise ImportError("mmcv/_ext.so: undefined symbol: _ZN3c104cuda9SetDeviceEab")

    installed(monkeypatch, mmcv="2.1.0", mmdet="3.3.0")
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(
        ImportError, match=r"mmcv 2\.1\.0 does not load with torch .*undefined symbol.*pip cache remove"
    ) as e:
        versions.check()
    assert torch.__version__ in str(e.value)
