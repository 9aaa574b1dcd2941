"""Write a checkpoint with random weights for the teacher of a pair, where the published one can't be downloaded."""

import sys

import torch
from mmengine.config import Config

from rekd_det.testing.tiny_detectors import build_random
from rekd_det.utils.pair_config import resolve_model_config
from rekd_det.utils.pretrained import drop_pretrained


def main(config_path: str, out: str) -> None:
    config = resolve_model_config(Config.fromfile(config_path).model.teacher)
    drop_pretrained(config)
    torch.save(dict(state_dict=build_random(config).state_dict()), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
