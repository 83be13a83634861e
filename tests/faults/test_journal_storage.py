"""The disk under the journal fails while the one under the database does not: jobs go on, and nothing is lost.

Owns the faults (an error of each call that the journal makes, a file system of its own that is full). A
later recovery of that disk lets the journal catch up, and it then gives every row.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from stoker.ops.rebuild import Until, from_journal
from stoker.store import outbox
from stoker.store.database import reading
from stoker.store.journal_files import files
from tests.support import strace
from tests.support.disks import fill, small_disk
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
        until(lambda: client.call("system.health")["ok"] is False, why="it is not healthy, except while it tries again")


def chain_of(daemon: DaemonProcess) -> str | None:
    """The name of the chain that the newest try has begun."""
    with reading(daemon.state_dir / "stoker.db") as connection:
        return outbox.chain(connection)


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
    stopped_daemon.state_dir.mkdir(mode=0o700)
    with small_disk(stopped_daemon.state_dir / "journal", "1m"):
        yield stopped_daemon.start()
        stopped_daemon.kill_all()


def test_journal_when_its_disk_is_full_then_jobs_go_on(small_journal: DaemonProcess, tmp_path: Path) -> None:
    """The last write is short: one of the two pieces of a line is missing."""
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


def test_journal_when_old_files_could_not_be_removed_then_it_is_tried_again(daemon: DaemonProcess) -> None:
    backups = daemon.state_dir / "backups"
    with daemon.client() as client:
        daemon.cli("backup")
        moved = backups.rename(daemon.state_dir / "backups.moved")
        backups.write_text("no directory")
        daemon.config.write_text("[journal]\nkeep_bytes = 1000000\n")
        os.kill(daemon.pid, signal.SIGHUP)  # new settings are applied to the files at once
        until(lambda: client.status()["journal"]["error"], why="files that could not be listed")

        backups.unlink()
        moved.rename(backups)
        until(lambda: client.status()["journal"]["error"] is None, why="the next try")
        assert client.call("system.health")["ok"] is True
    daemon.logged("journal_back")
    assert len(daemon.events("journal_failed")) == len(daemon.events("journal_back")) == 1


def test_journal_when_a_new_one_finds_no_room_then_its_begin_is_logged_once(small_journal: DaemonProcess) -> None:
    daemon, journal = small_journal, small_journal.state_dir / "journal"
    journaled(daemon)
    daemon.stop()
    for path in files(journal):
        path.unlink()
    fill(journal / "filler")
    daemon.start()
    until_it_fails(daemon, "No space left")
    tried = chain_of(daemon)
    until(lambda: chain_of(daemon) != tried, why="a further try")
    (journal / "filler").unlink()
    journaled(daemon)

    assert [event["reason"] for event in daemon.logged("journal_begun", 2)][1:] == ["there was none"]
