"""Write a checkpoint with random weights for the teacher of a pair, where the published one can't be downloaded."""

import sys

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

import rekd_det  # noqa: F401
from rekd_det.utils.pair_config import resolve_model_config


def main(config_path: str, out: str) -> None:
    init_default_scope("mmdet")
    torch.manual_seed(0)
    config = resolve_model_config(Config.fromfile(config_path).model.teacher)
    config.backbone.init_cfg = None
    teacher = MODELS.build(config)
    teacher.init_weights()
    torch.save(dict(state_dict=teacher.state_dict()), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
