"""The rows that a journal must give again, and the wait for a journal that has them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from stoker.store import outbox
from tests.support.facts import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

Rows = dict[str, set[tuple[Any, ...]]]
# What a restore itself writes, and what the start after it begins anew.
OF_A_RESTORE = {"journal", "restored", "epoch", "journal_left"}


def rows(database: Path) -> Rows:
    """Every row of every table of the state."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        every = [*outbox.tables(connection), outbox.table(connection, outbox.LOG)]
        every_row = {
            table.name: set(connection.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}"))
            for table in every
        }
    every_row["meta"] = {row for row in every_row["meta"] if row[0] not in OF_A_RESTORE}
    return every_row


def journaled(daemon: DaemonProcess) -> int:
    """Wait until every change is in the journal; gives the last one."""
    with daemon.client() as client:
        until(lambda: client.status()["journal"]["seq"] == client.status()["last_seq"])
        return int(client.status()["last_seq"])
