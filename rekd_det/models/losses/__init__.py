"""Distillation losses on classification logits and feature maps, registered in MMRazor's ``MODELS``."""

from rekd_det.models.losses.base import LogitLoss
from rekd_det.models.losses.bckd import BCKDLoss
from rekd_det.models.losses.classical import DKDLoss, GDKDLoss, KDLoss
from rekd_det.models.losses.dist import DISTLoss
from rekd_det.models.losses.feature_loss import FeatureLoss
from rekd_det.models.losses.rekd import NTIDLoss, ReKDLoss, TISDLoss

__all__ = [
    "OWN_NAMES",
    "BCKDLoss",
    "DISTLoss",
    "DKDLoss",
    "FeatureLoss",
    "GDKDLoss",
    "KDLoss",
    "LogitLoss",
    "NTIDLoss",
    "ReKDLoss",
    "TISDLoss",
]

#: MMRazor has losses of these names, which work on other arguments. Outside of ReKDDistiller the names stay MMRazor's;
#: as ``model.distiller.loss.type`` they mean ours, which are registered under the other name
OWN_NAMES = {"DKDLoss": "LogitDKDLoss", "DISTLoss": "LogitDISTLoss"}
