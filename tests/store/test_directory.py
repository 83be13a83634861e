"""The state directory: its owner, its lock, and `state.json` beside the database."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.core.errors import AlreadyRunning, CannotCreate, StateRefused
from stoker.store.directory import Aside, StateDirectory

HOLD_THE_LOCK = """
import sys
from pathlib import Path
from stoker.store.directory import StateDirectory
directory = StateDirectory(Path(sys.argv[1]))
directory.lock()
print("locked", flush=True)
sys.stdin.read()
"""
PREPARE = """
import sys
from pathlib import Path
from stoker.core.errors import StateRefused
from stoker.store.directory import StateDirectory
try:
    StateDirectory(Path(sys.argv[1])).prepare()
except StateRefused as error:
    print(error, error.hint, sep="; ")
"""
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def prepared(directory: StateDirectory) -> StateDirectory:
    directory.prepare()
    return directory


# --- whose directory it is ----------------------------------------------------------------------------------


def test_prepare_when_the_directory_is_missing_then_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    of = StateDirectory(tmp_path / "a" / "b" / "state")

    of.prepare()
    of.prepare()

    assert mode(of.root) == 0o700


def test_prepare_when_the_umask_is_generous_then_the_directory_is_still_private(directory: StateDirectory) -> None:
    before = os.umask(0)
    try:
        directory.prepare()
    finally:
        os.umask(before)

    assert mode(directory.root) == 0o700


@pytest.mark.parametrize("open_to", [0o755, 0o710, 0o701, 0o770])
def test_prepare_when_others_may_enter_then_it_is_refused_and_stays_as_it_is(
    directory: StateDirectory, open_to: int
) -> None:
    directory.root.mkdir()
    directory.root.chmod(open_to)

    with pytest.raises(StateRefused) as refused:
        directory.prepare()

    assert refused.value.hint == f"chmod 700 {directory.root}"
    assert mode(directory.root) == open_to


@AS_ROOT
def test_prepare_when_it_belongs_to_another_user_then_it_is_refused(directory: StateDirectory) -> None:
    directory.root.mkdir(mode=0o700)
    os.chown(directory.root, 12345, 12345)

    with pytest.raises(StateRefused, match="belongs to uid 12345, not to root"):
        directory.prepare()


@AS_ROOT
def test_prepare_when_the_disk_is_read_only_then_no_mode_is_blamed(prepared: StateDirectory) -> None:
    mounted = 'mount -t tmpfs -o ro,mode=700 none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", str(prepared.root), sys.executable, PREPARE]

    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert f"{prepared.root} is on a read-only file system" in answer
    assert "mount it writable" in answer
    assert "chmod" not in answer


def test_prepare_when_its_place_is_a_file_then_it_cannot_be_created(directory: StateDirectory) -> None:
    directory.root.write_text("mine")

    with pytest.raises(CannotCreate):
        directory.prepare()

    assert directory.root.read_text() == "mine"


def test_prepare_when_a_parent_cannot_hold_it_then_it_cannot_be_created() -> None:
    with pytest.raises(CannotCreate, match="/proc/nowhere"):
        StateDirectory(Path("/proc/nowhere/state")).prepare()


# --- the lock -----------------------------------------------------------------------------------------------


def test_lock_when_another_process_holds_it_then_it_is_named_until_it_dies(
    prepared: StateDirectory,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, prepared.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(AlreadyRunning, match=rf"\(pid {holder.pid}\)"):
            prepared.lock()
        holder.kill()
        holder.wait()

        prepared.lock()

    assert (prepared.root / "lock").read_text() == f"{os.getpid()}\n"


def test_lock_when_it_is_taken_then_it_is_private_and_says_which_file_it_is(prepared: StateDirectory) -> None:
    lock = prepared.lock()

    file = prepared.root / "lock"
    prepared.unlock()
    assert prepared.lock() == lock
    assert str(file.stat().st_ino) in lock
    assert mode(file) == 0o600


def test_lock_when_the_directory_is_copied_over_itself_then_it_is_another_file(
    prepared: StateDirectory, tmp_path: Path
) -> None:
    lock = prepared.lock()
    prepared.unlock()

    shutil.copytree(prepared.root, tmp_path / "copy")
    shutil.rmtree(prepared.root)
    shutil.copytree(tmp_path / "copy", prepared.root)

    assert prepared.lock() != lock


def test_lock_when_it_is_given_back_then_another_may_have_it(prepared: StateDirectory) -> None:
    other = StateDirectory(prepared.root)
    prepared.lock()
    with pytest.raises(AlreadyRunning):
        other.lock()

    prepared.unlock()
    prepared.unlock()

    other.lock()
    other.unlock()


def test_lock_when_its_place_is_a_link_then_it_is_refused(prepared: StateDirectory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (prepared.root / "lock").symlink_to(elsewhere)

    with pytest.raises(StateRefused):
        prepared.lock()

    assert not elsewhere.exists()


def test_lock_when_a_worker_is_started_then_it_does_not_inherit_it(prepared: StateDirectory) -> None:
    prepared.lock()

    assert prepared._lock is not None
    assert not os.get_inheritable(prepared._lock)


# --- the note beside the database ---------------------------------------------------------------------------

NOTE = Aside(instance="cafe", schema=1, last_seq=42)


def test_aside_when_it_is_written_then_it_comes_back_and_nothing_else_is_left(prepared: StateDirectory) -> None:
    assert prepared.read_aside() is None
    prepared.write_aside(Aside(instance="old", schema=1, last_seq=1))

    prepared.write_aside(NOTE)

    assert prepared.read_aside() == NOTE
    assert [path.name for path in prepared.root.iterdir()] == ["state.json"]
    assert mode(prepared.aside) == 0o600


def test_aside_when_a_write_was_cut_off_then_the_old_note_stands(prepared: StateDirectory) -> None:
    prepared.write_aside(NOTE)
    (prepared.root / "state.new").write_bytes(b'{"instance":"ca')

    assert prepared.read_aside() == NOTE
    prepared.write_aside(NOTE)

    assert not (prepared.root / "state.new").exists()


def test_aside_when_power_is_lost_at_any_moment_then_one_of_the_two_notes_is_on_disk(prepared: StateDirectory) -> None:
    """As the kernel saw it: the content is synced before the name points to it, the name before the caller goes on."""
    program = f"from stoker.store.directory import *; StateDirectory(Path({str(prepared.root)!r})).write_aside"
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: nothing can look on")
    seen = subprocess.run(
        [strace, "-f", "-y", "-e", "trace=fsync,rename", sys.executable, "-c", f"{program}(Aside('i', 1, 1))"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr

    calls = re.findall(r"(fsync|rename)\(.*?(state\.new|state)[\">]", seen)
    assert calls == [("fsync", "state.new"), ("rename", "state.new"), ("fsync", "state")]


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"instance":"cafe","schema":1}', b'{"instance":1,"schema":1,"last_seq":1}', b"\xff"]
)
def test_aside_when_it_cannot_be_read_then_it_is_refused_and_left_alone(prepared: StateDirectory, torn: bytes) -> None:
    prepared.aside.write_bytes(torn)

    with pytest.raises(StateRefused, match=r"state\.json"):
        prepared.read_aside()

    assert prepared.aside.read_bytes() == torn


def test_aside_when_it_is_a_directory_then_it_is_refused(prepared: StateDirectory) -> None:
    prepared.aside.mkdir()

    with pytest.raises(StateRefused):
        prepared.read_aside()
