"""A file is whole at every moment, and on the disk before anybody relies on it."""

import errno
import os

import pytest

from rekd_det.utils.atomic import remove_partials, replace_text, replacing


@pytest.fixture
def calls(monkeypatch):
    """The order of what brings a file to the disk."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        seen.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}')).split('.')[-1]}")
        fsync(descriptor)

    def record_replace(source, target):
        seen.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return seen


def test_content_then_name_then_folder(tmp_path, calls):
    (folder := tmp_path / "folder").mkdir()
    replace_text(folder / "a.txt", "new")
    assert calls == ["fsync partial", "replace", "fsync folder"]
    assert (folder / "a.txt").read_text() == "new"
    assert os.listdir(folder) == ["a.txt"]


def test_a_bare_name_lies_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replace_text("a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    (tmp_path / "a.txt").write_text("old")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing != "write":
        monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "a.txt") as partial:
        with open(partial, "w") as file:
            file.write("ne")
        if failing == "write":
            full()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_killed_processes_left(tmp_path):
    (tmp_path / ".iter_4.pth.123.partial").write_text("half")
    (tmp_path / "iter_2.pth").write_text("whole")
    assert remove_partials(tmp_path) == [str(tmp_path / ".iter_4.pth.123.partial")]
    assert os.listdir(tmp_path) == ["iter_2.pth"]
