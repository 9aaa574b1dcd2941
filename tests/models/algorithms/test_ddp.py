"""Two CPU processes give the gradients that one process gives on the joined batch."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.model import MMDistributedDataParallel
from tiny import batch, build, build_pair, perturb, tiny_rcnn, total


def whole_and_deterministic():
    """Samplers that keep every proposal and every anchor: nothing random, and the same number of rows per image."""
    config = tiny_rcnn()
    config.train_cfg.rpn.sampler.update(num=10**6, pos_fraction=1.0)
    config.train_cfg.rpn.assigner.update(neg_iou_thr=0.7)
    config.train_cfg.rcnn.sampler.update(num=10**6, pos_fraction=1.0)
    config.train_cfg.rpn_proposal.update(max_per_img=20)
    return config


def make():
    config = whole_and_deterministic()
    return build_pair(config, teacher=perturb(build(config)))


def halves(model):
    return batch(model, shapes=((3, 96, 96), (3, 96, 96)), num_items=(3, 3))


def gradients(module, data):
    total(module(**data, mode="loss")).backward()
    return {k: p.grad for k, p in module.named_parameters() if p.grad is not None}


def worker(rank, port, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    from mmengine.registry import init_default_scope

    import rekd_det  # noqa: F401

    init_default_scope("mmdet")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = make()
    data = halves(model)
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
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(worker, (port, str(tmp_path / "grads.pth")), nprocs=2, start_method="spawn")
    ours = torch.load(tmp_path / "grads.pth")
    model = make()
    want = gradients(model, halves(model))
    assert set(ours) == set(want)
    for key, value in want.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    head = want["architecture.roi_head.bbox_head.fc_cls.weight"]
    model.distiller.scale = 0.0
    model.zero_grad(set_to_none=True)
    without = gradients(model, halves(model))["architecture.roi_head.bbox_head.fc_cls.weight"]
    assert not torch.allclose(head, without, rtol=1e-2), "the distillation's part is too small to be seen here"
