"""Whether the checkpoint that a training starts from is of its model: of a distillation, or of a detector alone."""

from __future__ import annotations

from mmengine.config import Config

from rekd_det.utils.checkpoint import can_be_checked, check_checkpoint_file
from rekd_det.utils.checkpoint_content import is_distilled, weights_of
from rekd_det.utils.errors import CheckpointError
from rekd_det.utils.pair_config import is_pair


def check_first_weights(cfg: Config) -> None:
    """Refuse weights that would be left out silently, and a resume that would distil nothing.

    Args:
        cfg: the config of a run whose ``load_from`` and ``resume`` are settled.

    Raises:
        CheckpointError: it names the file and what to do instead.
    """
    path, model = cfg.get("load_from"), cfg.get("model") or {}
    pair = is_pair(model)
    judged = cfg.get("resume") if pair else "architecture" not in model  # a pair may start from weights of both kinds
    if not judged or not path or not can_be_checked(path):
        return
    distilled = is_distilled(weights_of(check_checkpoint_file(path)))
    if pair and not distilled:
        raise CheckpointError(
            f"'{path}' is of a detector alone, not of a distillation, so this pair can't resume from it. Give the "
            "pair another work_dir, or start from these weights with load_from"
        )
    if distilled and not pair:
        raise CheckpointError(
            f"'{path}' is of a distillation, and a detector alone would take none of its weights. Give the detector "
            "another work_dir, or take the student out with tools/export_student.py and start from it with load_from"
        )
