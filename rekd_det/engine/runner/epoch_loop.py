"""An epoch that is resumed in its middle continues its count there."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's EpochBasedTrainLoop, whose first epoch after a resume numbers its batches from where it stood.

    The original numbers the batches that it is handed: the log of a resumed epoch said ``[1][1/4]`` at its last
    batch, and what hooks do at an epoch's end was not done. :class:`rekd_det.engine.runner.rekd_runner.ReKDRunner`
    puts it in the original's place.
    """

    #: batches of the current epoch that an earlier process has done
    done = 0

    def run_epoch(self) -> None:
        """Iterate one epoch, or the rest of it."""
        super().run_epoch()
        self.done = 0

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Iterate one batch, with its number in the whole epoch."""
        super().run_iter(idx + self.done, data_batch)
