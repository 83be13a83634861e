"""The files with the secrets of a run: private from the start, in memory only, and gone with the run."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.process.secret_files import NoPrivatePlace, SecretFiles, places

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_MEMORY = Path("/dev/shm")
RUN, OTHER = "1.1.0123456789abcdef", "2.1.0123456789abcdef"


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as place:
        yield Path(place)


def test_secrets_when_put_then_only_their_owner_can_read_them(memory: Path) -> None:
    files = SecretFiles([memory], "i")
    umask = os.umask(0)
    try:
        files.put(RUN, {"A": b"one", "B": b"\0"})
    finally:
        os.umask(umask)

    root = memory / "stoker-secrets-i"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, root / RUN, root / RUN / "A")}
    assert list(modes.values()) == [0o700, 0o700, 0o400]
    assert files.directory(RUN) == str(root / RUN)
    assert {path.name: path.read_bytes() for path in (root / RUN).iterdir()} == {"A": b"one", "B": b"\0"}


def test_secrets_when_their_run_has_ended_then_they_are_gone_and_others_stay(memory: Path) -> None:
    files = SecretFiles([memory], "i")
    for run in (RUN, OTHER):
        files.put(run, {"A": b"one"})

    files.remove([RUN, "3.1.0123456789abcdef"])
    assert [path.name for path in (memory / "stoker-secrets-i").iterdir()] == [OTHER]
    files.remove([OTHER])
    assert list(memory.iterdir()) == []


def test_secrets_when_the_job_made_a_mess_there_then_its_values_are_gone(memory: Path) -> None:
    files = SecretFiles([memory], "i")
    files.put(RUN, {"A": b"one"})
    own = Path(files.directory(RUN))
    (own / "deep" / "er").mkdir(parents=True)
    (own / "link").symlink_to("/etc")
    own.chmod(0)

    files.remove([RUN])

    assert not own.exists()
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("swap", ["file", "link", "link for all runs", "file for all runs", "closed"])
def test_secrets_when_the_job_swaps_their_directory_then_the_end_is_quiet(
    memory: Path, tmp_path: Path, swap: str
) -> None:
    """A job of the daemon's user can do so; its end must not stop the daemon, now or at its next start."""
    tmp_path.chmod(0o755)
    for at_start in (False, True):
        files = SecretFiles([memory], "i")
        files.put(RUN, {"A": b"one"})
        root = memory / "stoker-secrets-i"
        swapped = root if "all" in swap else root / RUN
        if swap == "closed":
            swapped.chmod(0)
        else:
            swapped.rename(memory / f"moved-{at_start}")
            swapped.symlink_to(tmp_path) if "link" in swap else swapped.write_text("x")

        if at_start:
            SecretFiles([memory], "i").prepare(())
        else:
            files.remove([RUN])

        assert not (root / RUN).is_symlink()
        assert not (root / RUN).exists()
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
        if root.is_symlink() or root.is_file():
            root.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the files of another user")
def test_start_when_another_user_made_the_directory_then_it_is_left_alone(memory: Path, tmp_path: Path) -> None:
    """In /dev/shm everybody can make it while no run has secrets, with links to files of the daemon in it."""
    tmp_path.chmod(0o755)
    root = memory / "stoker-secrets-i"
    root.mkdir()
    (root / RUN).symlink_to(tmp_path)
    os.chown(root, 70_001, 70_001)

    SecretFiles([memory], "i").prepare(())

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert (root / RUN).is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the files of another user")
def test_secrets_when_another_user_took_the_name_then_they_are_under_a_random_one(memory: Path) -> None:
    """Where everybody can make files: the id of the instance is no secret, so the plain name can be taken first."""
    memory.chmod(0o1777)
    for taken in ("stoker-secrets-i", "stoker-secrets-i-1"):
        (memory / taken).mkdir()
        os.chown(memory / taken, 70_001, 70_001)
    files = SecretFiles([memory], "i")

    files.put(RUN, {"A": b"one"})
    files.put(OTHER, {"A": b"two"})
    first = Path(files.directory(RUN))
    files.remove([RUN])
    after_a_crash = SecretFiles([memory], "i")
    after_a_crash.prepare(())

    assert first.parent == Path(files.directory(OTHER)).parent
    assert len(first.parent.name) == len("stoker-secrets-i-") + 16
    assert sorted(path.name for path in memory.iterdir()) == ["stoker-secrets-i", "stoker-secrets-i-1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the directory of another user")
@pytest.mark.parametrize(("owner", "mode"), [(70_001, 0o700), (0, 0o777), (0, 0o770)])
def test_place_when_another_user_could_rename_things_in_it_then_it_is_not_used(
    memory: Path, owner: int, mode: int
) -> None:
    os.chown(memory, owner, owner)
    memory.chmod(mode)

    with pytest.raises(NoPrivatePlace, match="this daemon alone can change"):
        SecretFiles([memory], "i").put(RUN, {"A": b"one"})


def test_start_when_runs_ended_without_a_daemon_then_their_secrets_are_removed(memory: Path) -> None:
    killed = SecretFiles([memory], "i")
    for run in (RUN, OTHER):
        killed.put(run, {"A": b"one"})

    files = SecretFiles([memory], "i")
    files.prepare({OTHER})

    assert [path.name for path in (memory / "stoker-secrets-i").iterdir()] == [OTHER]
    files.remove([OTHER])
    assert list(memory.iterdir()) == []


def test_secrets_when_written_again_after_a_failed_try_then_the_new_ones_are_there(memory: Path) -> None:
    files = SecretFiles([memory], "i")
    files.put(RUN, {"A": b"one", "C": b"left"})

    files.put(RUN, {"A": b"two"})

    assert {path.name: path.read_bytes() for path in Path(files.directory(RUN)).iterdir()} == {"A": b"two"}


def test_secrets_when_no_directory_is_in_memory_then_they_are_refused(tmp_path: Path) -> None:
    files = SecretFiles([Path("/proc"), tmp_path / "missing"], "i")

    with pytest.raises(NoPrivatePlace, match="looked at /proc, "):
        files.put(RUN, {"A": b"one"})


@pytest.mark.parametrize("mode", [0o755, 0o701])
def test_secrets_when_their_directory_is_open_to_others_then_they_are_refused(memory: Path, mode: int) -> None:
    (memory / "stoker-secrets-i").mkdir()
    (memory / "stoker-secrets-i").chmod(mode)

    with pytest.raises(NoPrivatePlace, match="open to others"):
        SecretFiles([memory], "i").put(RUN, {"A": b"one"})


def test_secrets_when_their_directory_is_a_link_then_nothing_is_written(memory: Path, tmp_path: Path) -> None:
    (memory / "stoker-secrets-i").symlink_to(tmp_path)
    files = SecretFiles([memory], "i")
    files.prepare(())

    with pytest.raises(OSError, match="Not a directory"):
        files.put(RUN, {"A": b"one"})
    assert list(tmp_path.iterdir()) == []


def test_places_when_the_service_has_its_own_then_it_comes_first() -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/stoker:/run/more", "XDG_RUNTIME_DIR": "/run/user/7"}

    assert [str(place) for place in places(environ)] == ["/run/stoker", "/run/user/7", "/dev/shm"]
    assert [str(place) for place in places({})] == ["/dev/shm"]
