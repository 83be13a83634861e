"""The removal of the oldest changes: the queries that find them, and the sweep that deletes them in pieces.

The commit of a turn gives changes up: it records in `meta` up to which seq (`retention.purge`). The sweep deletes them
later, always from the beginning of the log. Invariant: `meta` has the seq and the hash of the last deleted change,
written in the transaction that deletes it; a trigger refuses to delete others, and the chain goes on from that hash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from stoker.store import changes
from stoker.store.queues import SET_META
from stoker.store.retention import SWEPT_BYTES, Swept

OLDEST = "SELECT seq, at FROM changes WHERE seq > ? ORDER BY seq LIMIT ?"
COUNT = """
SELECT count(*) FROM changes
WHERE seq < coalesce((SELECT seq FROM changes WHERE at >= ?1 ORDER BY seq LIMIT 1), ?2 + 1) AND seq <= ?2
"""
GIVEN_UP = "SELECT coalesce((SELECT value FROM meta WHERE key = ?), 0)"
SIZES = "SELECT seq, length(payload) FROM changes WHERE seq BETWEEN ? AND ? ORDER BY seq"
HASH = "SELECT hash FROM changes WHERE seq = ?"
DELETE = "DELETE FROM changes WHERE seq <= ?"

SWEPT = 256  # in one piece that ends early when a commit waits
FEW = 64  # deleted before a commit that waits has its turn: a fifth of a millisecond
OF_A_PAGE = 4  # changes for each page of WAL


def oldest(connection: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, int]]:
    """Seq and time of the oldest changes behind `after` that are left."""
    return connection.execute(OLDEST, (after, limit)).fetchall()


def count(connection: sqlite3.Connection, before: int, newest: int) -> int:
    """The number of changes that a purge would remove: those before the first newer one, and up to `newest`."""
    return int(connection.execute(COUNT, (before, newest)).fetchone()[0])


def sweep(connection: sqlite3.Connection, awaited: Callable[[], bool] = lambda: False) -> Swept:
    """Delete some of the changes that were given up; fewer if the writer is `awaited`, or if they are large."""
    (last,) = connection.execute(GIVEN_UP, (changes.GIVEN_UP,)).fetchone()
    first = gone = changes.last_removed(connection)
    room = SWEPT_BYTES
    while gone < min(last, first + SWEPT) and room > 0 and not (gone > first and awaited()):
        gone, room = _delete_few(connection, gone + 1, last, room)
    return Swept(gone - first, (gone - first) // OF_A_PAGE, is_last=gone >= last)


def _delete_few(connection: sqlite3.Connection, first: int, last: int, room: int) -> tuple[int, int]:
    """Delete changes from `first` on, at least one; returns the last of them, and how many bytes of `room` are left.

    The bytes count, because SQLite reads every page of a long text to free it.
    """
    gone = first
    sizes = connection.execute(SIZES, (first, min(last, first + FEW - 1))).fetchall()  # their numbers have no gaps
    for seq, size in sizes:
        if room <= 0:
            break
        gone, room = seq, room - size
    (digest,) = connection.execute(HASH, (gone,)).fetchone()
    connection.executemany(SET_META, [("changes_purged", gone), ("changes_purged_hash", digest)])
    connection.execute(DELETE, (gone,))
    return gone, room
