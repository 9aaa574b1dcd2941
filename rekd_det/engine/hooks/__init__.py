"""Hooks for mmengine's Runner, one a file."""

from .distill_log_hook import DistillLogHook
from .distill_warmup_hook import DistillWarmupHook
from .pair_check_hook import PairCheckHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .student_weights_hook import StudentWeightsHook

__all__ = ["DistillLogHook", "DistillWarmupHook", "PairCheckHook", "SafeCheckpointHook", "StudentWeightsHook"]
