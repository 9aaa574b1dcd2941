"""What SafeCheckpointHook takes from the message hub of a resumed checkpoint."""

from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub

from rekd_det.engine.hooks import SafeCheckpointHook


@pytest.mark.parametrize("kept", [["x/../../victim", 8, 9], ["x/../../victim"] * 3, "x/../../victim", {"a": 1}])
def test_nothing_outside_the_run_is_removed(tmp_path, kept):
    run = tmp_path / "run"
    (run / "epoch_x").mkdir(parents=True)
    for path in (tmp_path / "victim.pth", run / "epoch_8.pth", run / "epoch_9.pth"):
        path.write_text("")
    hub = MessageHub.get_instance(f"test_nothing_outside {kept}")
    hub.runtime_info["keep_ckpt_ids"] = kept
    runner = SimpleNamespace(work_dir=str(run), message_hub=hub, logger=SimpleNamespace(info=lambda text: None))
    SafeCheckpointHook(interval=1, max_keep_ckpts=1).before_train(runner)
    assert (tmp_path / "victim.pth").exists()
    assert (run / "epoch_9.pth").exists()
    assert (run / "epoch_8.pth").exists() == (kept != ["x/../../victim", 8, 9])
