"""Workarounds for particular versions of torch, mmengine, mmcv and mmrazor, called once by ``import rekd_det``.

Each mends one thing that is broken in the versions of requirements.txt, and leaves everything else alone.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmengine.utils import digit_version

from rekd_det.utils import torchvision_stand_in
from rekd_det.utils.checkpoint import load_as_data, load_from_http
from rekd_det.utils.shadow import shadowed

_RAZOR_BACKENDS = "mmrazor.structures.quantization.backend_config"

#: the autograd functions of mmcv.ops that mmdet's detectors call
_OPS_WITHOUT_BF16 = (
    "border_align.BorderAlignFunction",
    "carafe.CARAFEFunction",
    "carafe.CARAFENaiveFunction",
    "deform_conv.DeformConv2dFunction",
    "deform_roi_pool.DeformRoIPoolFunction",
    "focal_loss.SigmoidFocalLossFunction",
    "focal_loss.SoftmaxFocalLossFunction",
    "masked_conv.MaskedConv2dFunction",
    "modulated_deform_conv.ModulatedDeformConv2dFunction",
    "multi_scale_deform_attn.MultiScaleDeformableAttnFunction",
    "nms.NMSop",
    "nms.SoftNMSop",
    "prroi_pool.PrRoIPoolFunction",
    "roi_align.RoIAlignFunction",
    "roi_pool.RoIPoolFunction",
)


def apply() -> None:
    """Fix what is broken in the installed versions. Calling it again does nothing."""
    _let_mmrazor_take_a_newer_mmcv()
    _mend_mmrazor_import()
    _load_checkpoints_as_data()
    _load_files_as_data()
    _serve_torchvision_urls()
    _give_bf16_to_ops_as_fp32()
    torchvision_stand_in.install()


def _let_mmrazor_take_a_newer_mmcv() -> None:
    """MMRazor 1.0 asserts mmcv <= 2.1.0 at import. What it uses of mmcv is the same in the maintained fork, 2.3."""
    newest = "2.1.0"
    if "mmrazor" in sys.modules or digit_version(mmcv.__version__) <= digit_version(newest):
        return
    with shadowed(mmcv, "__version__", newest):
        importlib.import_module("mmrazor")


def _mend_mmrazor_import() -> None:
    # MMRazor 1.0 imports names that torch 2 made private. Its guard then turns *every* name of that import into a
    # placeholder that raises as soon as the module body uses it.
    if _RAZOR_BACKENDS in sys.modules:
        return
    # Quantization backends play no part in distillation; MMRazor itself uses these four `None` on torch < 1.13.
    stand_in = types.ModuleType(_RAZOR_BACKENDS, "Stand-in: MMRazor 1.0's original needs torch < 2.")
    backends = dict.fromkeys(("academic", "native", "tensorrt", "openvino"))
    stand_in.__dict__.update(BackendConfigs=backends, __all__=["BackendConfigs"])
    sys.modules[_RAZOR_BACKENDS] = stand_in


def _load_checkpoints_as_data() -> None:
    """Make sure that mmengine's loader executes nothing, for every scheme and every caller.

    mmengine downloads through ``torch.hub``, which loads with ``weights_only`` off and takes two URLs that end in the
    same name for one. Every way to a checkpoint leads through this one method: ``load_from``, ``init_cfg``, resume.
    A loader that a user has registered stays in force; ``torch.load`` in it is a safe one as well.
    """
    from mmengine.runner import checkpoint as theirs

    original = theirs.CheckpointLoader.load_checkpoint.__func__  # type: ignore[attr-defined]
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def load_checkpoint(cls, filename, map_location=None, logger="current"):
        return load_as_data(filename, lambda: original(cls, filename, map_location, logger))

    theirs.CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    if hasattr(theirs, "_safe_torch_load"):
        theirs._safe_torch_load = _read_as_data
    schemes = theirs.CheckpointLoader._schemes
    schemes.update({prefix: load_from_http for prefix, loader in schemes.items() if loader is theirs.load_from_http})
    theirs.load_from_http = load_from_http  # which the loaders of torchvision:// and the like call


def _read_as_data(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """Replaces what the fork of mmengine, 0.10.12, puts around ``torch.load``.

    That allows a checkpoint the real ``getattr`` while it reads, then takes HistoryBuffer and NumPy's types from the
    allow-list for the rest of the process, and reads what was refused once more with ``weights_only`` off.
    """
    return torch.load(file, map_location=map_location, weights_only=weights_only is not False)


def _load_files_as_data() -> None:
    """Make ``mmengine.load`` execute nothing: data sets read proposals and annotations with it, as pickles or YAML."""
    from mmdet.datasets import OpenImagesChallengeDataset
    from mmengine.fileio.handlers import PickleHandler, YamlHandler, file_handlers

    from rekd_det.utils.data_files import DataPickleHandler, DataYamlHandler, read_relations

    safe = {PickleHandler: DataPickleHandler(), YamlHandler: DataYamlHandler()}  # a user's own handler stays
    file_handlers.update({name: safe.get(type(handler), handler) for name, handler in file_handlers.items()})
    OpenImagesChallengeDataset._get_relation_matrix = read_relations


def _serve_torchvision_urls() -> None:
    """Let ``torchvision://resnet50`` work where torchvision is not installed.

    OpenMMLab's configs name ImageNet weights so, and mmengine imports torchvision for nothing but its table of URLs.
    mmengine contains the same table as JSON, so it is used instead.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return
    import mmengine.hub
    from mmengine.runner import checkpoint as theirs

    table = Path(mmengine.hub.__file__).parent / "torchvision_0.12.json"
    theirs.get_torchvision_models = lambda: json.loads(table.read_text())


def _give_bf16_to_ops_as_fp32() -> None:
    """Let detectors train under bf16 autocast, which mmcv 2.1's operators have no kernels for.

    RoI features are pooled and proposals decoded in fp32 as well: mmdet casts RoIs and priors to the dtype of the maps,
    and bf16's eight bits of mantissa would move a box at x = 1000 by several pixels. Results stay in fp32, which
    autocast takes everywhere. Other dtypes pass untouched.
    """
    import mmcv.ops  # noqa: F401
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor

    for name in _OPS_WITHOUT_BF16:
        module, _, function = name.partition(".")
        op = getattr(sys.modules.get(f"mmcv.ops.{module}"), function, None)  # mmcv.ops has imported all it has
        if op is not None and not hasattr(op.forward, "__wrapped__"):
            op.forward = staticmethod(_bf16_to_fp32(op.forward))
    for extractor in (SingleRoIExtractor, GenericRoIExtractor):
        if not hasattr(extractor.forward, "__wrapped__"):
            extractor.forward = _bf16_to_fp32(extractor.forward)
    if not hasattr(BaseDenseHead.predict_by_feat, "__wrapped__"):
        BaseDenseHead.predict_by_feat = _bf16_to_fp32(BaseDenseHead.predict_by_feat)


def _bf16_to_fp32(function: Callable) -> Callable:
    """The function with bf16 tensors among its arguments, and in their lists and tuples, as fp32."""

    def wide(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return x.float() if x.dtype == torch.bfloat16 else x
        if type(x) in (list, tuple) and any(isinstance(y, torch.Tensor) for y in x):
            return type(x)(map(wide, x))
        return x

    @functools.wraps(function)
    def run(*args, **kwargs):
        return function(*map(wide, args), **{key: wide(x) for key, x in kwargs.items()})

    return run
