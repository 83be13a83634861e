"""The directory shared with the nodes: what a run leaves there as its checkpoints, and what is taken for one.

Owns the files that a worker can put in the way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stoker.cluster.shared_directory import SharedDirectory

if TYPE_CHECKING:
    from pathlib import Path

RUN = "1.1.aa"


@pytest.fixture
def shared(tmp_path: Path) -> SharedDirectory:
    one = SharedDirectory(tmp_path / "shared", "0123")
    one.prepare()
    one.put_order(RUN, b"{}", {})
    return one


def put(shared: SharedDirectory, name: str, text: str, at_s: int = 0) -> None:
    path = shared.path(RUN, "saves") / name
    path.write_text(text)
    os.utime(path, (at_s, at_s))


def names(shared: SharedDirectory) -> list[str]:
    return sorted(path.name for path in shared.path(RUN, "saves").iterdir())


def test_saves_when_there_are_some_then_they_come_in_the_order_of_their_times(shared: SharedDirectory) -> None:
    put(shared, "b", "1", at_s=1)
    put(shared, "a", "3", at_s=2)
    put(shared, "a.status", "epoch 3\n")
    put(shared, "c", "2", at_s=1)

    found = shared.saves(RUN, 16)

    assert shared.has_saves(RUN)
    assert [(save.data, save.status) for save in found] == [(b"1", "saved"), (b"2", "saved"), (b"3", "epoch 3\n")]


def test_saves_when_a_run_is_faster_than_the_daemon_then_the_newest_count(shared: SharedDirectory) -> None:
    for number in range(5):
        put(shared, str(number), str(number), at_s=number)

    assert [save.data for save in shared.saves(RUN, 2)] == [b"3", b"4"]
    assert [save.data for save in shared.saves(RUN, 16)] == [b"3", b"4"]


def test_saves_when_one_is_not_complete_or_was_taken_then_it_is_none(shared: SharedDirectory) -> None:
    put(shared, ".a", "incomplete")
    put(shared, "b", "taken")
    put(shared, "b.status", "epoch 1")

    shared.remove_save(RUN, "b")

    assert not shared.has_saves(RUN)
    assert shared.saves(RUN, 16) == []
    assert names(shared) == [".a"]


def test_saves_when_a_worker_puts_something_else_there_then_it_is_removed(
    shared: SharedDirectory, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("foreign")
    directory = shared.path(RUN, "saves")
    (directory / "link").symlink_to(foreign)
    os.mkfifo(directory / "fifo")
    (directory / "below" / "more").mkdir(parents=True)
    put(shared, "good", "1")

    assert [save.name for save in shared.saves(RUN, 16)] == ["good"]
    assert names(shared) == ["good"]
    assert foreign.read_text() == "foreign"


def test_saves_when_the_run_has_gone_then_there_are_none(shared: SharedDirectory) -> None:
    shared.remove([RUN])

    assert (shared.has_saves(RUN), shared.saves(RUN, 16)) == (False, [])
