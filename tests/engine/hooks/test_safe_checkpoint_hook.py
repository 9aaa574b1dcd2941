"""What SafeCheckpointHook takes from the message hub of a resumed checkpoint."""

from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub

from rekd_det.engine.hooks import SafeCheckpointHook
from rekd_det.utils.errors import InputError


def started(hook, folder, hub):
    logger = SimpleNamespace(info=lambda text: None)
    hook.before_train(SimpleNamespace(work_dir=str(folder), message_hub=hub, logger=logger))
    return hook


@pytest.mark.parametrize("kept", [["x/../../victim", 8, 9], ["x/../../victim"] * 3, "x/../../victim", {"a": 1}])
def test_nothing_outside_the_run_is_removed(tmp_path, kept):
    run = tmp_path / "run"
    (run / "epoch_x").mkdir(parents=True)
    for path in (tmp_path / "victim.pth", run / "epoch_8.pth", run / "epoch_9.pth"):
        path.write_text("")
    hub = MessageHub.get_instance(f"test_nothing_outside {kept}")
    hub.runtime_info["keep_ckpt_ids"] = kept
    started(SafeCheckpointHook(interval=1, max_keep_ckpts=1), run, hub)
    assert (tmp_path / "victim.pth").exists()
    assert (run / "epoch_9.pth").exists()
    assert (run / "epoch_8.pth").exists() == (kept != ["x/../../victim", 8, 9])


def test_an_old_checkpoint_that_somebody_else_removed_ends_nothing(tmp_path):
    hook = started(SafeCheckpointHook(interval=1), tmp_path, MessageHub.get_instance("removed"))
    old = tmp_path / "epoch_1.pth"
    old.touch()
    with hook._removals_later():
        hook.file_backend.remove(str(old))
        assert old.exists()
        old.unlink()


def test_an_old_checkpoint_that_cant_be_removed_ends_nothing(tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("rekd_det.engine.hooks.safe_checkpoint_hook.print_log", lambda text, *_: told.append(text))
    hook = started(SafeCheckpointHook(interval=1), tmp_path, MessageHub.get_instance("kept"))
    old = tmp_path / "epoch_1.pth"
    old.mkdir()  # no file: as where permissions are missing, also for root
    with hook._removals_later():
        hook.file_backend.remove(str(old))
    assert old.exists()
    assert [text.partition(": ")[0] for text in told] == [f"The old checkpoint {old} can't be removed"]


def test_a_metric_that_the_validation_does_not_give_is_named(tmp_path):
    hook = SafeCheckpointHook(interval=1, save_best="coco/bbox_mAP", rule="greater")
    started(hook, tmp_path, MessageHub.get_instance("voc"))
    with pytest.raises(InputError, match=r"no metric .coco/bbox_mAP.: it has pascal_voc/mAP.* continue with --resume"):
        hook._save_best_checkpoint(SimpleNamespace(), {"pascal_voc/mAP": 0.5})
