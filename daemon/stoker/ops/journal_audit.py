"""The verification of the journal, and of the database by it: what the one has, the other must have too.

A log of changes whose end was cut off has a whole chain; the journal shows that there was more. It may lag behind a
running daemon, never the reverse.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.errors import JournalBroken
from stoker.store import changes, outbox
from stoker.store.journal_chains import Torn, chains, read_chain

if TYPE_CHECKING:
    from stoker.core.daemon_views import JournalAuditView


def verify(connection: sqlite3.Connection, directory: Path) -> JournalAuditView | None:
    """Verify every line of the journal of a database; None if there is none."""
    count, last, newest, broken = 0, 0, None, None
    try:
        for chain in chains(directory):
            newest = chain.header.chain
            for line in read_chain(chain):
                if not isinstance(line, Torn):
                    count, last = count + 1, line.seq
    except (OSError, JournalBroken) as error:
        broken = error.message if isinstance(error, JournalBroken) else f"{directory}: {error.strerror}"
    if newest is None and broken is None:
        return None
    if broken is None and outbox.exists(connection) and outbox.chain(connection) == newest:
        broken = _missing(changes.last(connection)[0], last)
    return {"path": str(directory), "lines": count, "last": last, "broken": broken}


def _missing(in_database: int, in_journal: int) -> str | None:
    """Asked after the journal was read: a running daemon commits first."""
    if in_database >= in_journal:
        return None
    return f"the database ends at change {in_database}, but the journal has changes up to {in_journal}"
