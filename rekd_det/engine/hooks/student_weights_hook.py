"""StudentWeightsHook: test a plain detector on a distilled checkpoint."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from rekd_det.utils.checkpoint import load_weights
from rekd_det.utils.checkpoint_content import strip_student_prefix, weights_of


@HOOKS.register_module()
class StudentWeightsHook(Hook):
    """Let a plain detector load a distilled checkpoint, and insist that all its weights match.

    It rewrites the loaded checkpoint in memory, before any other hook (``EMAHook``) reads it.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Strip the student's prefix and load strictly. The Runner's own lax loading follows."""
        weights = strip_student_prefix(weights_of(checkpoint))
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        load_weights(model, weights, str(runner._load_from))
        if "state_dict" not in checkpoint:
            checkpoint.clear()
        checkpoint["state_dict"] = weights
        # A copy that EMAHook kept while distilling has the same prefix; testing needs none.
        checkpoint.pop("ema_state_dict", None)
