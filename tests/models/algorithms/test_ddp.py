"""Two CPU processes give the gradients that one process gives on the joined batch."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from forked_tool import free_port
from mmengine.model import MMDistributedDataParallel
from tiny import batch, build, build_pair, perturb, tiny_rcnn, total
from zoo_pairs import zoo_pair

from rekd_det.testing.tiny_detectors import pair_of


def whole_and_deterministic():
    """Samplers that keep every proposal and every anchor: nothing random, and the same number of rows per image."""
    config = tiny_rcnn()
    config.train_cfg.rpn.sampler.update(num=10**6, pos_fraction=1.0)
    config.train_cfg.rpn.assigner.update(neg_iou_thr=0.7)
    config.train_cfg.rcnn.sampler.update(num=10**6, pos_fraction=1.0)
    config.train_cfg.rpn_proposal.update(max_per_img=20)
    return config


def faster_rcnn():
    config = whole_and_deterministic()
    model = build_pair(config, teacher=perturb(build(config)))
    return model, batch(model, shapes=((3, 96, 96), (3, 96, 96)), num_items=(3, 3))


def gfl_boxes():
    """The distributions of the boxes too; the second image, which the second process gets, has no object."""
    model, data = zoo_pair("gfl/gfl_r50_fpn_1x_coco.py", (96, 96))
    teacher = perturb(model.teacher, 0.02)
    model = pair_of(model.architecture, teacher, box_loss=dict(type="mmrazor.ReKDLoss", top_k=4))
    for detector in (model.architecture, model.teacher):
        # The sums of the qualities must exceed their lower limit of 1, which applies to each process by itself.
        torch.nn.init.zeros_(detector.bbox_head.gfl_cls.bias)
    data["data_samples"][1].gt_instances = data["data_samples"][1].gt_instances[:0]
    return model, data


def gradients(module, data):
    total(module(**data, mode="loss")).backward()
    return {k: p.grad for k, p in module.named_parameters() if p.grad is not None}


def worker(rank, pair, port, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    from mmengine.registry import init_default_scope

    import rekd_det  # noqa: F401

    init_default_scope("mmdet")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model, data = pair()
    mine = {k: v[rank : rank + 1] for k, v in data.items()}
    # As mmengine wraps it by default: find_unused_parameters stays False.
    wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    bucketed = {id(p) for p in wrapped.parameters()}
    assert not bucketed & {id(p) for p in model.teacher.parameters()}
    for _ in range(2):  # a second step would raise if the first had left parameters unused
        wrapped.zero_grad(set_to_none=True)
        grads = gradients(wrapped, mine)
    if rank == 0:
        torch.save({k.removeprefix("module."): v for k, v in grads.items()}, path)
    dist.barrier()
    os._exit(0)  # to destroy the group may deadlock: it waits for gloo's threads, and these for the GIL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "distilled", "atol"),
    [(faster_rcnn, "roi_head.bbox_head.fc_cls", 1e-6), (gfl_boxes, "bbox_head.gfl_reg", 1e-5)],
    ids=["faster_rcnn", "gfl_boxes"],
)
def test_two_processes_equal_one(tmp_path, pair, distilled, atol):
    path = tmp_path / "grads.pth"
    mp.start_processes(worker, (pair, free_port(), str(path)), nprocs=2, start_method="spawn")
    ours = torch.load(path)
    model, data = pair()
    want = gradients(model, data)
    assert set(ours) == set(want)
    for key, value in want.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=atol, msg=lambda m, k=key: f"{k}: {m}")
    head = want[f"architecture.{distilled}.weight"]
    model.distiller.scale = 0.0
    model.zero_grad(set_to_none=True)
    without = gradients(model, pair()[1])[f"architecture.{distilled}.weight"]
    assert not torch.allclose(head, without, rtol=1e-2), "the distillation's part is too small to be seen here"
