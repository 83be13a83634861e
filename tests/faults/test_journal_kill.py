"""SIGKILL at the syscalls that append to the journal, rotate it, and begin it: the next life adds what is missing.

A small program commits rows and writes the journal as a daemon does. After each kill it runs again to its end; then the
journal must give every row of the database.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stoker.ops.rebuild import Until, from_journal
from stoker.store.journal_files import files
from tests.support import strace
from tests.support.strace import OPTIONS, Point, points, some_of_each

if TYPE_CHECKING:
    from pathlib import Path

MISSING = strace.why_not()
CHANGING = ["fdatasync", "fsync", "ftruncate", "mkdir", "openat", "rename", "unlink", "write", "pwrite64"]
MOST_OF_A_KIND = 8
LIFE = """
import sqlite3, sys
from pathlib import Path
from stoker.store import journal as module, outbox
from stoker.store.database import transaction
from stoker.store.journal import Journal, new_chain, read_outbox
from stoker.store.migrate import migrate
from stoker.store.queues import SET_META

module.FORGET_AFTER = 3
root = Path(sys.argv[1])
connection = sqlite3.connect(root / "stoker.db", isolation_level=None)
connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
schema = migrate(connection, root / "backups")
journal = Journal(root / "journal", "instance", schema, armed=outbox.arm(connection), rotated_bytes=2_000)
for number in range(12):
    if journal.resume(read_outbox(connection)) is not None:
        chain = new_chain()
        outbox.set_chain(connection, chain)
        journal.begin_chain(chain, root / "stoker.db")
    with transaction(connection):
        journal.forget(connection)
        connection.execute(SET_META, (f"key {number % 5}", "x" * 300 + str(number)))
        connection.execute("DELETE FROM meta WHERE key = ?", (f"key {(number + 2) % 5}",))
    journal.collect(connection)
    journal.close()
    journal.append_all()
    assert journal.error is None, journal.error
    journal.writing = False
"""

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(900)]


def live(root: Path, trace: Path | None = None, kill: Point | None = None) -> int:
    """One life of the program; gives its exit status, negative if it was killed."""
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-c", LIFE, str(root)]
    if trace is not None:
        chosen = f"trace={','.join(CHANGING)}" if kill is None else f"trace={kill.syscall}"
        faults = [] if kill is None else ["-e", kill.kill()]
        command = ["strace", *OPTIONS, "-o", str(trace), "-e", chosen, *faults, *command]
    return subprocess.run(command, check=False, capture_output=True).returncode


def chosen_points(trace: Path) -> list[Point]:
    """From the first touch of the journal on."""
    return some_of_each(points(trace, "/journal", CHANGING), CHANGING, MOST_OF_A_KIND)


def meta(database: Path) -> set[tuple[str, object]]:
    with closing(sqlite3.connect(database)) as connection:
        return set(connection.execute("SELECT key, value FROM meta"))


def test_journal_when_it_is_killed_anywhere_then_the_next_life_completes_it(tmp_path: Path) -> None:
    assert live(tmp_path / "first", tmp_path / "trace") == 0
    assert len(files(tmp_path / "first" / "journal")) > 2, "it was rotated"
    every = chosen_points(tmp_path / "trace")
    killed = 0

    for number, point in enumerate(every):
        root = tmp_path / str(number)
        killed += live(root, tmp_path / f"trace.{number}", point) < 0
        assert live(root) == 0, point
        rebuilt = tmp_path / f"{number}.db"

        from_journal(root / "journal", rebuilt, Until())

        assert meta(rebuilt) == meta(root / "stoker.db"), point

    assert killed > len(every) // 2
