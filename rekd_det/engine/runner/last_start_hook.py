"""LastStartHook: a later ``--resume`` continues the training that was started last."""

from __future__ import annotations

import os
import os.path as osp

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from rekd_det.engine.runner.latest_checkpoint import earlier_files, folder_of_earlier, named_by_last_checkpoint
from rekd_det.utils.atomic import replace_text
from rekd_det.utils.checkpoint import is_local


class LastStartHook(Hook):
    """Lets ``--resume`` find this training's checkpoints from now on, though it has written none yet.

    A training that starts anew, or resumes from a checkpoint of another folder, moves the checkpoints of an earlier one
    into a folder of their own: killed before its first checkpoint, it would otherwise continue the earlier one. One
    that resumes from a named checkpoint continues from that one, though its folder may have later ones.

    The folder's config is this training's from then on, too.
    """

    def before_run(self, runner: Runner) -> None:
        """Write the config, which ReKDRunner put off: a training that is refused its folder leaves it as it is."""
        Runner.dump_config(runner)

    def before_train(self, runner: Runner) -> None:
        """Move the earlier files, and name the checkpoint that this training continues."""
        barrier()  # a process may be loading its `load_from`, which may be one of these files
        if not is_main_process():
            return
        folder, source, own = osp.abspath(runner.work_dir), None, False
        if runner._resume:
            source = str(runner._load_from)
            source = osp.abspath(osp.expanduser(source)) if is_local(source) else source
            last = named_by_last_checkpoint(folder) or ""  # it may be in the out_dir of a CheckpointHook
            own = _folder_of(source) in (osp.realpath(folder), _folder_of(last))
        if not own:
            _move_earlier_files(runner, folder, source)
        if source is not None:
            replace_text(osp.join(folder, "last_checkpoint"), source)


def _folder_of(path: str) -> str:
    """For comparing: two names of a folder may differ by a link."""
    return osp.realpath(osp.dirname(path)) if is_local(path) else osp.dirname(path)


def _move_earlier_files(runner: Runner, folder: str, source: str | None) -> None:
    files = earlier_files(folder)
    if not files:
        return
    aside = folder_of_earlier(folder, runner.timestamp)
    os.makedirs(aside)
    for path in files:
        os.replace(path, osp.join(aside, osp.basename(path)))
    runner.logger.warning(
        f"{runner.work_dir} had checkpoints of an earlier training ({osp.basename(files[0])}). This one "
        f"{f'continues {source}' if source else 'starts anew'}, and they are in {aside} now; --resume would have "
        "continued the earlier one."
    )
