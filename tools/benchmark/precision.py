"""Measures what the teacher's options change in its class logits, on a trained dense detector and real images.

    python tools/benchmark/precision.py CONFIG CHECKPOINT IMAGES... --out precision.csv

For each option of the teacher and each image, the logits of all locations are compared with those of the plain
detector. Reported are, over all locations and over those whose largest probability is at least 0.3 (the *sure* ones):
mean and largest change of a logit, how often the most probable category and the top 5 stay the same, and the mean
Bernoulli KL divergence of a row (the sum over its categories), which is what sigmoid distillation would see as loss.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import device_name, show, write_table
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from torch import Tensor

import rekd_det
from rekd_det.models.adapters.base import ADAPTERS
from rekd_det.models.adapters.dense.dense import DenseAdapter, flatten_maps
from rekd_det.models.teachers.lean import LeanOptions, LeanRun, make_lean
from rekd_det.models.teachers.teacher import build_teacher

OPTIONS = {
    "fuse_bn": LeanOptions(fuse_bn=True),
    "channels_last": LeanOptions(channels_last=True),
    "bf16": LeanOptions(dtype="bf16"),
    "fp16": LeanOptions(dtype="fp16"),
    "fuse_bn + channels_last + bf16": LeanOptions(fuse_bn=True, channels_last=True, dtype="bf16"),
}
SURE = 0.3


def logits(teacher, inputs: Tensor, run: LeanRun) -> Tensor:
    """Class logits ``(N, C)`` of all locations of a batch ``(B, 3, H, W)``."""
    head = teacher.bbox_head
    adapter = ADAPTERS.get(type(head))
    if adapter is None or not issubclass(adapter, DenseAdapter):
        raise SystemExit(f"{type(head).__name__} is not a dense head that can be read here")
    with torch.no_grad(), run.precision(inputs.device):
        maps = adapter.classify(head, run.maps(teacher.extract_feat(run.images(inputs))))
    return flatten_maps(maps, head.num_classes, "image").float()


def compare(got: Tensor, want: Tensor) -> dict[str, float]:
    """How ``(N, C)`` logits differ from the plain detector's."""
    got, want = got.double(), want.double()
    change = (got - want).abs()
    p = want.sigmoid()
    kl = F.binary_cross_entropy_with_logits(got, p, reduction="none")
    kl = kl - F.binary_cross_entropy_with_logits(want, p, reduction="none")
    top = [x.topk(5, 1).indices.sort(1).values for x in (got, want)]
    return dict(
        mean_change=change.mean().item(),
        largest_change=change.max().item(),
        same_top1=(got.argmax(1) == want.argmax(1)).double().mean().item(),
        same_top5=(top[0] == top[1]).all(1).double().mean().item(),
        kl_per_row=kl.sum(1).mean().item(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config of a dense detector, or its name in a package (mmdet::...)")
    parser.add_argument("checkpoint", help="its weights")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()

    init_default_scope("mmdet")
    cfg = get_config(args.config) if "::" in args.config else Config.fromfile(args.config)
    pipeline = Compose([t for t in cfg.test_dataloader.dataset.pipeline if t.type != "LoadAnnotations"])
    plain, _ = build_teacher(cfg.model, args.checkpoint)
    plain.to(args.device)
    batches = [_batch(plain, pipeline(dict(img_path=p, img_id=0))) for p in args.images]
    want = [logits(plain, x, LeanRun()) for x in batches]
    table = []
    for name, options in OPTIONS.items():
        teacher, _ = build_teacher(cfg.model, args.checkpoint)
        run = make_lean(teacher.to(args.device), options)
        got = [logits(teacher, x, run) for x in batches]
        for rows in ("all", "sure"):
            results = []
            for g, w in zip(got, want, strict=True):
                chosen = slice(None) if rows == "all" else w.sigmoid().amax(1) >= SURE
                if len(w[chosen]):
                    results.append(compare(g[chosen], w[chosen]))
            row = {k: float(f"{statistics.mean(r[k] for r in results):.4g}") for k in results[0]}
            row["largest_change"] = float(f"{max(r['largest_change'] for r in results):.4g}")
            table.append(dict(option=name, rows=rows, **row))
            show(table[-1])
    if args.out:
        head = dict(
            date=datetime.date.today().isoformat(),
            device=device_name(args.device),
            torch=torch.__version__,
            rekd_det=rekd_det.__version__,
            config=Path(args.config).stem,
            images=len(batches),
        )
        write_table([{**head, **row} for row in table], args.out)


def _batch(model, packed: dict) -> Tensor:
    data = dict(inputs=[packed["inputs"]], data_samples=[packed["data_samples"]])
    return model.data_preprocessor(data, False)["inputs"]


if __name__ == "__main__":
    main()
