"""Databases of earlier releases, made by their own programs: a start of this one keeps a backup and every row of a job.

Each file was left by `stokerd` of its time, stopped while jobs had succeeded and failed, were queued behind a paused
queue for a resource, waited for another job, and were held; one workflow had ended, one job had an idempotency key.
"""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stoker.store.backup_files import checksum_of, listed, read_checksum
from stoker.store.journal_files import files, lines, read_header
from stoker.store.migrate import schema_of, shipped_migrations
from tests.support.batches import tables
from tests.support.daemon import DaemonProcess
from tests.support.examined import by_command, findings
from tests.support.journals import journaled
from tests.support.work import end_of, job_view

RELEASES = sorted(Path(__file__).parent.glob("schema_*.db.gz"))
NEWEST = shipped_migrations()[-1].number
STATES = {
    1: "succeeded", 2: "failed", 3: "failed", 4: "queued", 5: "waiting", 6: "held", 7: "succeeded", 8: "succeeded",
}  # fmt: skip


@pytest.fixture(params=RELEASES, ids=lambda path: path.name.partition(".")[0])
def upgraded(request: pytest.FixtureRequest, stopped_daemon: DaemonProcess) -> DaemonProcess:
    """A daemon of this release on the database of an earlier one."""
    stopped_daemon.state_dir.mkdir(mode=0o700, exist_ok=True)
    database = stopped_daemon.state_dir / "stoker.db"
    database.write_bytes(gzip.decompress(request.param.read_bytes()))
    database.with_suffix(".before").write_bytes(database.read_bytes())
    return stopped_daemon.start()


def test_release_when_its_database_is_upgraded_then_jobs_keep_their_state_and_go_on(upgraded: DaemonProcess) -> None:
    with upgraded.client() as client:
        assert {ident: job_view(client, ident)["state"] for ident in STATES} == STATES
        assert job_view(client, 2)["name"] == "two"
        assert client.call("workflow.get", {"id": 1})["state"] == "succeeded"
        assert findings(by_command(upgraded)).keys() == {"lost logs"}  # the file is all that was kept

        client.call("queue.resume", {"name": "bulk"})

        assert end_of(client, 4) == end_of(client, 5) == ("succeeded", "exit")


def test_release_when_its_database_is_upgraded_then_a_backup_from_before_is_kept(upgraded: DaemonProcess) -> None:
    with closing(sqlite3.connect(upgraded.state_dir / "stoker.before")) as connection:
        old, before = schema_of(connection), tables(connection)

    (backup,) = listed(upgraded.state_dir / "backups")

    assert backup.before == old + 1 <= NEWEST
    assert read_checksum(backup.path) == checksum_of(backup.path)
    with closing(sqlite3.connect(backup.path)) as connection:
        assert schema_of(connection) == old
        assert tables(connection) == before


def test_release_when_its_database_is_upgraded_then_its_journal_begins(upgraded: DaemonProcess) -> None:
    journaled(upgraded)

    (path,) = files(upgraded.state_dir / "journal")
    header, _ = read_header(path, next(lines(path)))

    assert header.schema == NEWEST
    assert upgraded.cli("audit", "verify").returncode == 0
