"""The id of the history that the numbers of changes belong to: a cursor is valid only in its own history.

A restore goes back to an earlier change, and the first start of a copied directory goes on apart from the original:
from there on the same numbers stand for other changes, and the history has another id. Earlier ids are kept, each with
the last change that both have. They stand in `meta`; a database that was never restored or copied has none.
"""

from __future__ import annotations

import secrets
import sqlite3

import msgspec
from msgspec import Struct

from stoker.core.errors import HistoryChanged
from stoker.store.queues import SET_META, meta
from stoker.store.strict import strict

NAME = "history"
KEPT = 100  # earlier ids


class History(Struct, frozen=True):
    """`earlier`: the ids before, newest first, each with the last change that this history shares with it."""

    id: str
    earlier: tuple[tuple[str, int], ...] = ()

    def check_cursor(self, of: str, seq: int) -> None:
        """Raises HistoryChanged if the change `seq` of the history `of` is not in this one."""
        shared = {**dict(self.earlier), self.id: seq}.get(of)
        if shared is None:
            problem = f"history: no history {of} is known here, the present one is {self.id}"
            raise HistoryChanged(problem, hint="stoker watch --since 0", path="history")
        if seq > shared:
            raise HistoryChanged(
                f"after: a restore took back the changes behind {shared}, and {seq} stands for another change now",
                hint=f"stoker watch --since {shared}",
                path="after",
            )


@strict("meta")
def read(connection: sqlite3.Connection) -> History:
    """The history of this database; before its first start the id is empty."""
    stored = meta(connection)
    text = stored.get(NAME)
    return msgspec.json.decode(text, type=History) if text else History(stored.get("instance", ""))


def begin_another(connection: sqlite3.Connection, last_seq: int) -> None:
    """Another history begins behind the change `last_seq`; inside a transaction."""
    before = read(connection)
    earlier = ((before.id, last_seq), *((ident, min(seq, last_seq)) for ident, seq in before.earlier))
    history = History(secrets.token_hex(8), earlier[:KEPT])
    connection.execute(SET_META, (NAME, msgspec.json.encode(history).decode()))
