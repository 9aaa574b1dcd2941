"""LastStartHook: a later ``--resume`` continues the training that was started last."""

from __future__ import annotations

import os
import os.path as osp

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from rekd_det.engine.runner.latest_checkpoint import earlier_files
from rekd_det.utils.atomic import replace_text
from rekd_det.utils.checkpoint import is_local


class LastStartHook(Hook):
    """Lets ``--resume`` find this training's checkpoints from now on, though it has written none yet.

    A training that starts anew moves those of an earlier one in its folder into a folder of their own: killed before
    its first checkpoint, it would otherwise continue the earlier one. One that resumes from a named checkpoint of its
    folder continues from that one, though the folder may have later ones.
    """

    def before_train(self, runner: Runner) -> None:
        """Move the earlier files, or name the checkpoint that this training continues."""
        barrier()  # a process may be loading its `load_from`, which may be one of these files
        if not is_main_process():
            return
        folder = osp.abspath(runner.work_dir)
        if runner._resume:
            path = osp.abspath(osp.expanduser(str(runner._load_from)))
            if is_local(str(runner._load_from)) and osp.dirname(path) == folder:
                replace_text(osp.join(folder, "last_checkpoint"), path)
            return
        files = earlier_files(folder)
        if not files:
            return
        aside = osp.join(folder, f"earlier_{runner.timestamp}")
        os.makedirs(aside)
        for path in files:
            os.replace(path, osp.join(aside, osp.basename(path)))
        runner.logger.warning(
            f"{runner.work_dir} had checkpoints of an earlier training ({osp.basename(files[0])}). This one starts "
            f"anew, and they are in {aside} now; --resume would have continued the earlier one."
        )
