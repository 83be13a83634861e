"""The socket's path: no live socket is replaced, and no socket is open to other users for an instant."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from fcntl import flock
from pathlib import Path

import pytest

from stoker.core.errors import AlreadyRunning, CannotCreate, ConfigInvalid
from stoker.rpc.address import bind_socket, lock_socket, unlock_socket


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_bind_when_the_path_is_free_then_the_socket_has_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"

    with bind_socket(path):
        assert mode_of(path) == 0o600


def test_bind_when_a_dead_socket_lies_there_then_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    bind_socket(path).close()

    with bind_socket(path) as bound:
        bound.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_bind_when_a_server_answers_there_then_it_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with bind_socket(path) as alive:
        alive.listen()
        before = path.stat().st_ino

        with pytest.raises(AlreadyRunning, match=str(path)):
            bind_socket(path)

        assert path.stat().st_ino == before


def test_bind_when_something_else_lies_there_then_it_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("precious")

    with pytest.raises(CannotCreate, match="not a socket"):
        bind_socket(path)

    assert path.read_text() == "precious"


@pytest.mark.parametrize("make", [bind_socket, lock_socket])
def test_path_when_it_is_too_long_then_the_error_says_how_long_it_may_be(tmp_path: Path, make: object) -> None:
    assert callable(make)

    with pytest.raises(ConfigInvalid, match="the limit is 107") as caught:
        make(tmp_path / ("x" * 108))

    assert "--socket" in (caught.value.hint or "")


def test_lock_when_it_is_free_then_it_makes_the_directory_and_names_us(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.sock"

    lock = lock_socket(path)

    assert mode_of(path.parent) == 0o700
    assert (path.parent / "s.sock.lock").read_text() == f"{os.getpid()}\n"
    os.close(lock)


def test_lock_when_another_holds_it_then_its_pid_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    lock = lock_socket(path)

    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
        lock_socket(path)

    os.close(lock)
    os.close(lock_socket(path))


def test_unlock_when_a_waiter_has_the_old_file_open_then_it_locks_the_new_one(
    tmp_path: Path,
) -> None:
    path, lock = tmp_path / "s.sock", tmp_path / "s.sock.lock"
    unlock_socket(path, lock_socket(path))
    assert list(tmp_path.iterdir()) == []
    held = lock_socket(path)
    taken = iter([lambda: unlock_socket(path, held)])

    def removed_between_open_and_lock(fd: int, how: int) -> None:
        next(taken, lambda: None)()
        flock(fd, how)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fcntl, "flock", removed_between_open_and_lock)
        fd = lock_socket(path)

    assert os.path.samestat(os.fstat(fd), lock.stat())
    unlock_socket(path, fd)


def test_lock_when_the_path_is_taken_then_it_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("precious")

    with pytest.raises(CannotCreate, match="not a socket"):
        lock_socket(path)

    assert list(tmp_path.iterdir()) == [path]


def test_lock_when_the_directory_cannot_be_made_then_the_error_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CannotCreate, match="file is not a directory"):
        lock_socket(tmp_path / "file" / "s.sock")
