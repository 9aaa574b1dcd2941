"""Record the student's feature maps of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rekd_det.models.utils.taps import TapSet


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

    def clear(self) -> None:
        """Forget the maps."""
        self.feats = ()
