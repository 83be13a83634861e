"""SIGKILL at the syscalls of a backup and of a restore: a crash leaves the old state, the new one, or a refusal.

Every call that changes a file is a point. After each kill the directory is judged by the checks of a start, and the
same command is repeated and must succeed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import pytest

from stoker.core.errors import StateRefused
from stoker.ops import backup as backup_ops
from stoker.ops.restore import carry_out
from stoker.store import audit
from stoker.store.backup_files import checksum_of, listed, read_checksum
from stoker.store.database import examine, open_unchanged
from stoker.store.directory import StateDirectory
from stoker.store.integrity import find_damage
from stoker.store.open import doubt
from tests.support import busy_life, strace
from tests.support.daemon import BIN, DaemonProcess
from tests.support.journals import journaled
from tests.support.strace import OPTIONS, Point, points, some_of_each
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MISSING = strace.why_not()
CHANGING = ["fdatasync", "fsync", "link", "mkdir", "openat", "pwrite64", "rename", "unlink", "write", "ftruncate"]
MOST_OF_A_KIND = int(os.environ.get("STOKER_FAULTS", "100")) // 25  # of the syscalls of one kind, evenly chosen

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(900)]


class Prepared(NamedTuple):
    """A state that ends with change `newest`, and has a backup that ends with change `older`."""

    root: Path
    newest: int
    older: int


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """Rows in each table."""
    with DaemonProcess() as process:
        busy_life.live(process, tmp_path_factory.mktemp("life"))
        with process.client() as client:
            assert process.cli("backup").returncode == 0
            client.call("queue.resume", {"name": "default"})
            end_of(client, submit(client, shell("exit 0")))
            client.call("queue.pause", {"name": "default"})
        newest = journaled(process)
        process.kill9()  # its last changes are in the WAL
        while last_seq(process.state_dir) != newest:  # a timer made a further change before the kill
            newest = journaled(process.start())
            process.kill9()
        backup, *_ = listed(process.state_dir / "backups")
        yield Prepared(process.state_dir, newest, backup.last_seq)


def run(trace: Path, *words: str, kill: Point | None = None, inject: str | None = None) -> int:
    """`stoker WORDS` under strace; gives its exit status, negative if it was killed."""
    chosen = f"trace={','.join(CHANGING)}" if kill is None else f"trace={kill.syscall}"
    injected = inject if kill is None else kill.kill()
    faults = [] if injected is None else ["-e", injected]
    traced = ["strace", "--seccomp-bpf", *OPTIONS, "-o", str(trace), "-e", chosen, *faults]
    command = [*traced, str(BIN / "stoker"), *words]
    return subprocess.run(command, capture_output=True, check=False).returncode


def chosen_points(trace: Path) -> list[Point]:
    """From the first touch of the state on."""
    return some_of_each(points(trace, "/lock", CHANGING), CHANGING, MOST_OF_A_KIND)


def last_seq(root: Path) -> int | None:
    """The last change of the state that a start would accept; None if it would refuse."""
    directory = StateDirectory(root)
    try:
        if not examine(directory.database, directory.aside):
            raise AssertionError("a start would make a new, empty database")
        with open_unchanged(directory.database) as connection:
            doubt(connection, directory.read_aside())
            assert find_damage(connection) is None
            return audit.verify(connection).last
    except StateRefused:
        return None


def test_restore_when_it_is_killed_anywhere_then_the_state_is_old_or_new(prepared: Prepared, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(prepared.root, first, ignore=shutil.ignore_patterns("*.sock"))
    words = ("restore", "--from-backup", "latest", "--yes", "--state-dir")
    assert run(tmp_path / "trace", *words, str(first)) == 0
    assert last_seq(first) == prepared.older
    every = chosen_points(tmp_path / "trace")
    seen: set[int | None] = set()
    killed = 0

    for number, point in enumerate(every):
        root = tmp_path / str(number)
        shutil.copytree(prepared.root, root, ignore=shutil.ignore_patterns("*.sock"))
        killed += run(tmp_path / f"trace.{number}", *words, str(root), kill=point) < 0
        left = last_seq(root)
        assert left in (prepared.newest, prepared.older, None), point
        seen.add(left)

        carry_out(str(root), "latest")

        assert last_seq(root) == prepared.older, point
        assert prepared.newest in {ends_at(old) for old in root.glob("before-restore-*/stoker.db")}, point
        shutil.rmtree(root)

    assert killed > len(every) // 2
    assert seen == {prepared.newest, prepared.older, None}, "kills before, in and after the swap"


def ends_at(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT coalesce(max(seq), 0) FROM changes").fetchone()[0])


def test_backup_when_it_is_killed_anywhere_then_every_named_file_is_whole(prepared: Prepared, tmp_path: Path) -> None:
    root = tmp_path / "state"
    shutil.copytree(prepared.root, root, ignore=shutil.ignore_patterns("*.sock"))
    words = ("backup", "--state-dir", str(root))
    assert run(tmp_path / "trace", *words) == 0
    every = chosen_points(tmp_path / "trace")
    killed = 0

    for number, point in enumerate(every):
        killed += run(tmp_path / f"trace.{number}", *words, kill=point) < 0
        for backup in listed(root / "backups"):
            assert read_checksum(backup.path) == checksum_of(backup.path), point
            with closing(sqlite3.connect(f"{backup.path.as_uri()}?immutable=1", uri=True)) as connection:
                assert find_damage(connection) is None
        assert last_seq(root) == prepared.newest
    answer = backup_ops.make(str(root), None, lambda _done, _of: None)

    assert killed > len(every) // 2
    assert answer["seq"] == prepared.newest


FAILURES = {
    "no room while it is copied": ("inject=pwrite64:error=ENOSPC:when=3+", 75),
    "an error while it is copied": ("inject=pwrite64:error=EIO:when=3+", 74),
    "a step that is not synced": ("inject=fdatasync:error=EIO", 74),
    "a copy that is not synced": ("inject=fsync:error=EIO:when=2+", 74),
    "a name that cannot be given": ("inject=rename:error=EROFS", 74),
}


BACKUP, JOURNAL = ("--from-backup", "latest"), ("--from-journal",)
NO_RESTORE = {
    "no room for the rows of the journal": (JOURNAL, "inject=pwrite64:error=ENOSPC:when=3+", 75),
    "an error in the copy of a backup": (BACKUP, "inject=pwrite64:error=EIO:when=3+", 74),
    "a copy that is not synced": (BACKUP, "inject=fsync:error=EIO", 74),
    "a new database that is not synced": (JOURNAL, "inject=fsync:error=EIO", 74),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_backup_when_the_disk_fails_then_it_reports_the_error_and_leaves_nothing(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    fault, status = FAILURES[kind]
    root, trace = tmp_path / "state", tmp_path / "trace"
    shutil.copytree(prepared.root, root, ignore=shutil.ignore_patterns("*.sock"))
    before = sorted(path.name for path in (root / "backups").iterdir())

    assert run(trace, "backup", "--state-dir", str(root), inject=fault) == status

    assert strace.injected(trace) > 0
    assert sorted(path.name for path in (root / "backups").iterdir()) == before
    assert backup_ops.make(str(root), None, lambda _done, _of: None)["seq"] == prepared.newest


@pytest.mark.parametrize("kind", NO_RESTORE)
def test_restore_when_the_disk_fails_then_it_reports_it_and_the_state_is_unchanged(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    source, fault, status = NO_RESTORE[kind]
    root, trace = tmp_path / "state", tmp_path / "trace"
    shutil.copytree(prepared.root, root, ignore=shutil.ignore_patterns("*.sock"))
    database = (root / "stoker.db").read_bytes()

    assert run(trace, "restore", *source, "--yes", "--state-dir", str(root), inject=fault) == status

    assert strace.injected(trace) > 0
    assert (root / "stoker.db").read_bytes() == database
    assert last_seq(root) == prepared.newest
    assert not list(root.glob("stoker.db.restored*"))
