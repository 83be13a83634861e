"""The verification of the journal, and the comparison of the database with it.

A log of changes whose end was cut off has a valid hash chain; only the journal shows that there was more. The journal
may lag behind a running daemon, the database never lags behind the journal.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from stoker.core.errors import JournalBroken
from stoker.store import changes, outbox
from stoker.store.journal_chains import Torn, chains, read_chain
from stoker.store.journal_files import Position, read_outline

if TYPE_CHECKING:
    from stoker.core.daemon_views import JournalAuditView


class JournalReading(Struct):
    """The result of reading a journal. `chain`: its newest; `broken`: why the reading ended early."""

    lines: int = 0
    chain: str | None = None
    end: Position = Position()
    broken: str | None = None


def read(directory: Path, tries: int = 3) -> JournalReading:
    """Read a whole journal and verify the hash of each line.

    A running daemon may remove its oldest file meanwhile, once a minute: then it is read again.
    """
    reading = JournalReading()
    try:
        for chain in chains(directory):
            reading.chain, reading.end = chain.header.chain, Position(chain.header.last, chain.header.seq)
            for line in read_chain(chain, read_outline):
                if not isinstance(line, Torn):
                    reading.lines, reading.end = reading.lines + 1, line.position
    except JournalBroken as error:
        reading.broken = error.message
    except OSError as error:
        if isinstance(error, FileNotFoundError) and tries > 1:
            return read(directory, tries - 1)
        reading.broken = f"{error.filename or directory}: {error.strerror}"
    return reading


def verify(connection: sqlite3.Connection, directory: Path) -> JournalAuditView | None:
    """Verify every line of the journal of a database; None if there is none."""
    reading = read(directory)
    broken = reading.broken
    if reading.chain is None and broken is None:
        return None
    if broken is None and outbox.exists(connection) and outbox.chain(connection) == reading.chain:
        broken = _missing(changes.last(connection)[0], reading.end.seq)
    return {"path": str(directory), "lines": reading.lines, "last": reading.end.seq, "broken": broken}


def _missing(in_database: int, in_journal: int) -> str | None:
    """The changes that the database lacks. It is read after the journal, as a running daemon commits first."""
    if in_database >= in_journal:
        return None
    return f"the database ends at change {in_database}, but the journal has changes up to {in_journal}"
