"""The directory shared with the nodes: what a run leaves there as its checkpoints, and what is taken for one.

Owns the files that a worker can put in the way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stoker.cluster.shared_directory import SharedDirectory

if TYPE_CHECKING:
    from pathlib import Path

    from stoker.cluster.saves_directory import SavedFile

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


def taken(shared: SharedDirectory, most: int = 16) -> list[SavedFile]:
    """All that counts as a checkpoint, removed."""
    saves = shared.saves(RUN)
    found = []
    for name in saves.newest(most):
        save = saves.read(name)
        saves.remove(name)
        found += [] if save is None else [save]
    return found


def test_saves_when_there_are_some_then_they_come_in_the_order_of_their_times(shared: SharedDirectory) -> None:
    put(shared, "b", "1", at_s=1)
    put(shared, "a", "3", at_s=2)
    put(shared, "a.status", "epoch 3\n")
    put(shared, "c", "2", at_s=1)

    assert shared.saves(RUN)
    found = taken(shared)

    assert [(save.data, save.status) for save in found] == [(b"1", "saved"), (b"2", "saved"), (b"3", "epoch 3\n")]


def test_saves_when_a_run_is_faster_than_the_daemon_then_the_newest_count(shared: SharedDirectory) -> None:
    for number in range(5):
        put(shared, str(number), str(number), at_s=number)

    assert [save.data for save in taken(shared, 2)] == [b"3", b"4"]
    assert names(shared) == []


def test_saves_when_one_is_not_complete_or_was_taken_then_it_is_none(shared: SharedDirectory) -> None:
    put(shared, ".a", "incomplete")
    put(shared, "b", "taken")
    put(shared, "b.status", "epoch 1")

    shared.saves(RUN).remove("b")

    assert not shared.saves(RUN)
    assert taken(shared) == []
    assert names(shared) == [".a"]


def test_saves_when_a_worker_puts_something_else_there_then_it_is_none(shared: SharedDirectory, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("foreign")
    directory = shared.path(RUN, "saves")
    (directory / "link").symlink_to(foreign)
    os.mkfifo(directory / "fifo")
    (directory / "below" / "more").mkdir(parents=True)
    put(shared, "good", "1")
    (directory / "good.status").mkdir()

    assert [save.name for save in taken(shared)] == ["good"]
    assert not shared.saves(RUN)
    assert foreign.read_text() == "foreign"


def test_saves_when_a_name_leaves_no_room_for_a_status_then_it_is_one(shared: SharedDirectory) -> None:
    put(shared, "a" * 255, "1")

    assert [(save.data, save.status) for save in taken(shared)] == [(b"1", "saved")]
    assert names(shared) == []


@pytest.mark.parametrize("instead", ["file", "link", "loop"])
def test_saves_when_their_directory_is_something_else_then_there_are_none(
    shared: SharedDirectory, tmp_path: Path, instead: str
) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "below").mkdir(parents=True)
    (foreign / "precious").touch()
    directory = shared.path(RUN, "saves")
    directory.rmdir()
    if instead == "file":
        directory.touch()
    else:
        directory.symlink_to(foreign if instead == "link" else directory)

    assert not shared.saves(RUN)
    assert taken(shared) == []
    assert sorted(path.name for path in foreign.iterdir()) == ["below", "precious"]


def test_saves_when_a_worker_forbids_removals_then_each_is_taken_once(shared: SharedDirectory) -> None:
    put(shared, "good", "1")
    shared.path(RUN, "saves").chmod(0o500)

    assert [save.name for save in taken(shared)] == ["good"]
    assert shared.path(RUN, "saves").stat().st_mode & 0o777 == 0o700


def test_saves_when_the_run_has_gone_then_there_are_none(shared: SharedDirectory) -> None:
    shared.remove([RUN])

    assert not shared.saves(RUN)
    assert taken(shared) == []


@pytest.mark.parametrize("name", ["log", "output"])
def test_files_when_a_worker_puts_a_fifo_in_their_place_then_none_come_home(
    shared: SharedDirectory, tmp_path: Path, name: str
) -> None:
    os.mkfifo(shared.path(RUN, name))
    home = tmp_path / "home"

    if name == "log":
        shared.pull_log(RUN, home)
    else:
        shared.take(RUN, name, home, 10)

    assert not home.exists()


def test_remove_when_directories_are_nested_deeper_than_calls_then_all_go(shared: SharedDirectory) -> None:
    here = os.open(shared.path(RUN, "saves"), os.O_RDONLY)
    for _ in range(sys.getrecursionlimit()):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    shared.remove([RUN])

    assert RUN not in shared.known()


# Root without its right to pass over mode bits, as a daemon is that is not root.
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-c")
REMOVE = """
import sys
from pathlib import Path
from stoker.cluster.shared_directory import SharedDirectory
shared = SharedDirectory(Path(sys.argv[1]), "0123")
shared.remove([sys.argv[2]])
print(*shared.known(), *shared.left())
"""
bound = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="root and setpriv")


def removed_by_another(shared: SharedDirectory) -> list[str]:
    """The runs that are known, and those that were left, after the removal of RUN."""
    done = subprocess.run([*BOUND, REMOVE, str(shared.root), RUN], capture_output=True, text=True, check=True)
    return done.stdout.split()


@bound
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o500, 0o600])
def test_remove_when_a_worker_has_closed_its_directories_then_all_go(shared: SharedDirectory, mode: int) -> None:
    saves = shared.path(RUN, "saves")
    (saves / "below").mkdir()
    (saves / "below" / "file").touch()
    for path in (saves / "below", saves, saves.parent):
        path.chmod(mode)

    assert removed_by_another(shared) == []


@bound
def test_remove_when_another_user_has_closed_a_directory_then_the_run_is_left(shared: SharedDirectory) -> None:
    shared.revoke(RUN)
    saves = shared.path(RUN, "saves")
    os.chown(saves, 65_534, 65_534)
    saves.chmod(0)

    assert removed_by_another(shared) == [RUN, RUN]
    assert shared.claimed() == {RUN}

    shared.remove([RUN])

    assert (shared.known(), shared.left()) == (set(), set())
