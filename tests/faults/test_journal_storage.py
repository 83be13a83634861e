"""The disk under the journal fails while the one under the database does not: jobs go on, and nothing is lost.

Owns the faults (an error of each call that the journal makes, a file system of its own that is full). A
later recovery of that disk lets the journal catch up, and it then gives every row.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from stoker.ops.rebuild import Until, from_journal
from stoker.store.journal_files import files
from tests.support import strace
from tests.support.disks import fill
from tests.support.facts import until
from tests.support.journals import journaled, rows
from tests.support.strace import Attached, injected
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

MISSING = strace.why_not()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def work(daemon: DaemonProcess, jobs: int = 3) -> None:
    with daemon.client() as client:
        for _ in range(jobs):
            end_of(client, submit(client, shell("exit 0")))


def until_it_fails(daemon: DaemonProcess, words: str) -> None:
    with daemon.client() as client:
        until(lambda: words in str(client.status()["journal"]["error"]), why="the failure in status")
        assert client.call("system.health")["ok"] is False


def newest(daemon: DaemonProcess) -> Path:
    return files(daemon.state_dir / "journal")[-1]


def assert_complete(daemon: DaemonProcess, scratch: Path) -> None:
    """The daemon has stopped: its journal gives every row of its database."""
    rebuilt = scratch / "rebuilt.db"
    from_journal(daemon.state_dir / "journal", rebuilt, Until())
    assert rows(rebuilt) == rows(daemon.state_dir / "stoker.db")


FAULTS = {
    "a full disk": ("write:error=ENOSPC", "No space left"),
    "a quota": ("write:error=EDQUOT", "quota"),
    "a write": ("write:error=EIO", "Input/output error"),
    "a read-only disk": ("write:error=EROFS", "Read-only"),
    "a sync": ("fdatasync:error=EIO", "Input/output error"),
    "a sync for space": ("fdatasync:error=ENOSPC", "No space left"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_journal_when_its_disk_fails_then_it_catches_up_later(daemon: DaemonProcess, tmp_path: Path, kind: str) -> None:
    fault, words = FAULTS[kind]
    trace = tmp_path / "trace"
    work(daemon)
    journaled(daemon)
    attached = Attached(daemon.pid, trace, "trace=write,fdatasync", f"inject={fault}", path=newest(daemon))
    try:
        work(daemon)
        until_it_fails(daemon, words)
        work(daemon)
    finally:
        attached.detach()
    assert injected(trace) > 0

    journaled(daemon)
    daemon.stop()

    assert_complete(daemon, tmp_path)


def test_journal_when_a_sync_fails_then_its_lines_are_written_anew(daemon: DaemonProcess, tmp_path: Path) -> None:
    """The kernel marks pages that it could not write clean: a second sync succeeds without writing them."""
    trace = tmp_path / "trace"
    work(daemon)
    journaled(daemon)
    path = newest(daemon)
    before = path.stat().st_ino
    attached = Attached(daemon.pid, trace, "trace=fdatasync", "inject=fdatasync:error=EIO:when=1", path=path)
    try:
        work(daemon)
        until(lambda: injected(trace))
    finally:
        attached.detach()

    journaled(daemon)

    assert path.stat().st_ino != before
    daemon.stop()
    assert_complete(daemon, tmp_path)


def test_journal_when_a_start_resumes_it_then_it_trusts_no_earlier_sync(daemon: DaemonProcess, tmp_path: Path) -> None:
    """The life before may have ended because of a sync that failed."""
    work(daemon)
    journaled(daemon)
    before = newest(daemon).stat().st_ino

    daemon.kill_and_start()
    journaled(daemon)

    assert newest(daemon).stat().st_ino != before
    daemon.stop()
    assert_complete(daemon, tmp_path)


@pytest.fixture
def small_journal(stopped_daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """A daemon whose journal is on a file system of one megabyte."""
    where = stopped_daemon.state_dir / "journal"
    where.mkdir(mode=0o700, parents=True)
    stopped_daemon.state_dir.chmod(0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(where)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield stopped_daemon.start()
    finally:
        stopped_daemon.kill_all()
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_journal_when_its_disk_is_full_then_jobs_go_on(small_journal: DaemonProcess, tmp_path: Path) -> None:
    """The last write is a short one: a line in two pieces, of which one is missing."""
    daemon, filler = small_journal, small_journal.state_dir / "journal" / "filler"
    work(daemon)
    journaled(daemon)
    fill(filler)

    work(daemon, 20)
    until_it_fails(daemon, "No space left")
    filler.unlink()
    journaled(daemon)
    daemon.stop()

    assert_complete(daemon, tmp_path)
