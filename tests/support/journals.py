"""The rows that a journal must give again, the wait for a journal that has them, and a journal in two files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stoker.store import outbox
from stoker.store.journal_files import files, hash_of, read_header, read_line, sealed
from tests.support.facts import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

Rows = dict[str, set[tuple[Any, ...]]]
# Rows that a restore itself writes, or that the start after it makes anew.
OF_A_RESTORE = {
    *("journal", "restored", "epoch", "earlier_epochs", "journal_left", "history"),
    *("last_jobs", "last_workflows", "last_checkpoints"),
}


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


def split_in_two(journal: Path) -> tuple[Path, Path]:
    """The same journal in two files."""
    (path,) = files(journal)
    every = path.read_bytes().splitlines(keepends=True)
    header, digest = read_header(path, every[0])
    for text in every[1 : len(every) // 2]:
        following = hash_of(text, digest)
        assert following is not None
        digest = following
    second = path.with_name("00000002.jsonl")
    text, digest = sealed(replace(header, follows=digest.hex(), base=False), digest)
    texts = [text]
    path.write_bytes(b"".join(every[: len(every) // 2]))
    for one in every[len(every) // 2 :]:
        text, digest = sealed(read_line(path, one), digest)
        texts.append(text)
    second.write_bytes(b"".join(texts))
    return path, second
