"""Distillation losses on classification logits and feature maps, registered in MMRazor's ``MODELS``."""

from rekd_det.models.losses.base import LogitLoss
from rekd_det.models.losses.classical import DKDLoss, GDKDLoss, KDLoss
from rekd_det.models.losses.feature_loss import FeatureLoss
from rekd_det.models.losses.rekd import NTIDLoss, ReKDLoss, TISDLoss

__all__ = ["DKDLoss", "FeatureLoss", "GDKDLoss", "KDLoss", "LogitLoss", "NTIDLoss", "ReKDLoss", "TISDLoss"]
