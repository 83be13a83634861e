"""Notices of the real kernel: names, what is watched itself, and a queue that was full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stoker.host.inotify import FileNotice, Inotify

QUEUED = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def test_notices_when_names_come_and_go_then_each_notice_has_its_name(tmp_path: Path) -> None:
    inotify = Inotify()
    watch = inotify.watch(os.fsencode(tmp_path))

    (tmp_path / "ä b").touch()
    (tmp_path / "ä b").unlink()

    assert set(inotify.read()) == {FileNotice(watch, "ä b".encode())}
    assert inotify.read() == []
    inotify.close()


def test_notices_when_the_directory_itself_goes_then_the_notice_has_no_name(tmp_path: Path) -> None:
    inotify = Inotify()
    gone = tmp_path / "gone"
    gone.mkdir()
    watch = inotify.watch(os.fsencode(gone))

    gone.rmdir()

    assert set(inotify.read()) == {FileNotice(watch, b"")}
    inotify.unwatch(watch)  # the kernel has removed it: no error
    inotify.close()


def test_notices_when_the_queue_was_full_then_a_notice_of_the_loss_comes(tmp_path: Path) -> None:
    inotify = Inotify()
    inotify.watch(os.fsencode(tmp_path))
    one, other = tmp_path / "one", tmp_path / "other"
    one.touch()

    for _ in range(QUEUED // 2 + 8):
        one.rename(other)
        one, other = other, one
    lost = 0
    while heard := inotify.read():
        lost += sum(notice.lost for notice in heard)

    assert lost == 1
    inotify.close()


def test_watch_when_nothing_is_there_then_the_error_names_it(tmp_path: Path) -> None:
    inotify = Inotify()

    with pytest.raises(FileNotFoundError) as missing:
        inotify.watch(os.fsencode(tmp_path / "missing"))

    assert missing.value.filename == str(tmp_path / "missing")
    inotify.close()
