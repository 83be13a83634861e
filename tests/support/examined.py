"""States that a test damages and the doctor examines: without a daemon, in this process.

Owns how a database is edited behind SQLite's back, and the reports as a test compares them.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.ops.doctor.examination import Host
from stoker.ops.doctor.run import run
from stoker.store.database import reading
from stoker.store.journal import read_outbox
from stoker.store.journal_files import Position, find_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stoker.core.daemon_views import DoctorView
    from tests.support.daemon import DaemonProcess

OF_THE_HOST = {"sqlite", "newest backup"}  # notes that are there on this machine, or before the first backup
INDEX = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = 'idempotency_job'"
FORGET_INDEX = "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'idempotency_job'"
UNINDEXED = (
    "INSERT INTO idempotency (owner_uid, key, spec_hash, job_id, created_at) VALUES (0, 'unindexed', x'00', 2, 1)"
)


def examined(root: Path, config: Path = Path("/dev/null"), units: Sequence[str] = ()) -> DoctorView:
    """The report about a state without a daemon, on a host of which nothing else is known."""
    return run(str(root), Host({}, config, root / "sock", units), lambda *_: None)


def by_command(daemon: DaemonProcess, *arguments: str) -> DoctorView:
    """The report of the command; its exit status agrees with it."""
    result = daemon.cli("doctor", "--json", *arguments)
    assert result.stderr == ""
    report: DoctorView = json.loads(result.stdout)
    assert result.returncode == (65 if report["errors"] else 1 if report["warnings"] else 0)
    return report


def findings(report: DoctorView) -> dict[str, list[str]]:
    """The findings of each check, without the notes about this machine."""
    return {
        check["name"]: [finding["message"] for finding in check["findings"]]
        for check in report["checks"]
        if check["findings"] and check["name"] not in OF_THE_HOST
    }


def severities(report: DoctorView, name: str) -> set[str]:
    return {one["severity"] for check in report["checks"] if check["name"] == name for one in check["findings"]}


def edit(root: Path, sql: str) -> None:
    with closing(sqlite3.connect(root / "stoker.db", isolation_level=None)) as connection:
        connection.executescript(sql)


def content(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def is_journaled(root: Path) -> bool:
    """Whether the journal of a state, whose daemon may run, has every row of its database."""
    with reading(root / "stoker.db") as connection:
        stored = read_outbox(connection)
    end = find_end(root / "journal")
    return end is not None and end.complete and end.position == Position(stored.last, stored.seq)


def lose_index_entry(root: Path) -> None:
    """A row is stored while SQLite does not know of an index, so that the index lacks it."""
    with closing(sqlite3.connect(root / "stoker.db", isolation_level=None)) as connection:
        index = connection.execute(INDEX).fetchone()
        connection.executescript(FORGET_INDEX)
    edit(root, UNINDEXED)
    with closing(sqlite3.connect(root / "stoker.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES (?, ?, ?, ?, ?)", index
        )
