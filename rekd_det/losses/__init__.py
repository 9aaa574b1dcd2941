"""Distillation losses on classification logits, registered in MMRazor's ``MODELS``."""

from .base import LogitLoss
from .classical import DKDLoss, GDKDLoss, KDLoss
from .rekd import NTIDLoss, ReKDLoss, TISDLoss

__all__ = ["DKDLoss", "GDKDLoss", "KDLoss", "LogitLoss", "NTIDLoss", "ReKDLoss", "TISDLoss"]
