"""Record the student's feature maps of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rekd_det.models.utils.taps import TapSet
from rekd_det.utils.errors import InputError


class FeatureTap:
    """Records the student's feature maps of a step."""

    def __init__(self, student: Any) -> None:
        self.student = student
        self.feats: Sequence[Tensor] = ()

    def tap(self, taps: TapSet) -> None:
        """Add the tap: at ``extract_feat``, which every detector's loss takes its maps from."""

        def on_extract(args: tuple, kwargs: dict, output: Any) -> None:
            self.feats = [output] if isinstance(output, Tensor) else list(output)

        taps.add_method(self.student, "extract_feat", on_extract)

    @property
    def maps(self) -> Sequence[Tensor]:
        """The maps of this step.

        Raises:
            InputError: if the student's loss took none from ``extract_feat``.
        """
        if not self.feats:
            raise InputError(
                f"model.architecture: {type(self.student).__name__}.loss does not call extract_feat, so there are no "
                "feature maps for model.distiller.feature_losses; let it take its maps from there"
            )
        return self.feats

    def clear(self) -> None:
        """Forget the maps."""
        self.feats = ()
