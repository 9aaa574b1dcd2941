"""Pairs of tiny zoo detectors, and the order of their rows."""

import copy

import torch
from mmengine.logging import MessageHub

from rekd_det.testing.tiny_detectors import pair_of, self_pair, tiny_batch, tiny_config


def zoo_pair(cfg_path, size, epoch=0, objects=3):
    """A self-pair of a zoo config at a tiny size, and a batch for it."""
    hub = MessageHub.get_current_instance()
    hub.update_info("epoch", epoch)  # some heads ask for the progress of training
    hub.update_info("iter", 0)
    config = tiny_config(f"mmdet::{cfg_path}")
    model = self_pair(config, size)
    model.train = lambda mode=True: model  # norms were put in eval mode on purpose
    return model, tiny_batch(model.architecture, size, objects=objects)


def perturbed_pair(model, scale=0.02):
    """A pair of the same student with a teacher that has an opinion of its own."""
    from tiny import perturb

    return pair_of(model.architecture, perturb(copy.deepcopy(model.teacher), scale))


def level_major(maps, channels):
    """Rows in the order of heads that loop over levels."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, channels) for m in maps])


def image_major(maps, channels):
    """Rows in the order of heads that loop over images."""
    parts = [m.permute(0, 2, 3, 1).reshape(len(m), -1, channels) for m in maps]
    return torch.cat(parts, dim=1).reshape(-1, channels)
