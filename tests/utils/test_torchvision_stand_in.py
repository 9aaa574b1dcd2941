"""MMPretrain can be imported without torchvision, and nobody else sees one."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed: no stand-in is needed"
)


def test_mmpretrain_is_whole_and_nothing_is_left():
    import mmpretrain.datasets
    import mmpretrain.evaluation
    import mmpretrain.models

    assert mmpretrain.datasets.PackInputs and mmpretrain.evaluation.Accuracy and mmpretrain.models.ImageClassifier
    assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
    with pytest.raises(ModuleNotFoundError):
        import torchvision  # noqa: F401


def test_what_needs_torchvision_says_so():
    from mmpretrain.registry import TRANSFORMS
    from PIL import Image

    with pytest.raises(ImportError, match="torchvision is not installed"):
        TRANSFORMS.build(dict(type="torchvision/RandomResizedCrop", size=8, _scope_="mmpretrain"))
    with pytest.raises(ImportError, match=r"functional.pil_to_tensor.*torchvision is not installed"):
        TRANSFORMS.build(dict(type="PackInputs", _scope_="mmpretrain"))(dict(img=Image.new("RGB", (4, 4))))


@pytest.mark.slow
def test_without_this_package_mmpretrain_does_not_import():
    """If it ever does, the stand-in can go."""
    done = subprocess.run(
        [sys.executable, "-c", "import mmpretrain.models"], capture_output=True, text=True, check=False
    )
    assert "torchvision" in done.stderr
