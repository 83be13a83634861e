"""A small program that commits rows and writes the journal as a daemon does, with rotations and pauses.

It imports little, as it starts once for each kill.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from stoker.store import journal_feed, outbox
from stoker.store.database import transaction
from stoker.store.journal import Journal, new_chain, read_outbox
from stoker.store.journal_feed import JournalFeed
from stoker.store.migrate import migrate
from stoker.store.queues import SET_META

FORGET_AFTER = 3  # commits


def make_database(root: Path) -> None:
    root.mkdir()
    with closing(sqlite3.connect(root / "stoker.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, root / "backups")


def live(root: Path) -> None:
    """Commit rows, and write the journal as a daemon does, with rotations and pauses."""
    with closing(sqlite3.connect(root / "stoker.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        schema = migrate(connection, root / "backups")
        journal = Journal(root / "journal", "instance", schema, armed=outbox.arm(connection), rotated_bytes=2_000)
        feed = JournalFeed(journal)
        for number in range(12):
            if journal.resume(read_outbox(connection)) is not None:
                chain = new_chain()
                outbox.set_chain(connection, chain)
                journal.begin_chain(chain, root / "stoker.db")
            with transaction(connection):
                feed.forget(connection)
                connection.execute(SET_META, (f"key {number % 5}", "x" * 300 + str(number)))
                connection.execute("DELETE FROM meta WHERE key = ?", (f"key {(number + 2) % 5}",))
            feed.collect(connection)
            journal.close()
            journal.append_all()
            assert journal.error is None, journal.error
            journal.writing = False


if __name__ == "__main__":
    journal_feed.FORGET_AFTER = FORGET_AFTER
    live(Path(sys.argv[1]))
