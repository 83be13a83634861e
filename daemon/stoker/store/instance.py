"""Who this state directory is: its instance id, the epoch of this start, and the anchor of its clock.

Owns the facts in `meta`. A directory that was copied has another lock file than the one it remembers: it gets a
new id, and remembers up to which epoch all that it knows happened to the original, so that no process of that one is
ever taken for ours, at this start or at any later one.
"""

from __future__ import annotations

import secrets
import sqlite3

from msgspec import Struct

from stoker.core.clock import boot_ms, wall_ms
from stoker.store.queues import SET_META, meta

# Where steady time has come to, by the last commit that noted it.
STEADY = "steady"


class Instance(Struct, frozen=True):
    """`anchor` is steady time at boot (core/clock.py); `copied`: this is the first start of a copy.

    Attempts of a launcher whose epoch is not above `foreign_epochs` belong to the directory that this is a copy of.
    """

    id: str
    epoch: int
    anchor: int
    copied: bool
    foreign_epochs: int = 0


def ids(connection: sqlite3.Connection) -> set[str]:
    """Who this database is, and who it was before it was copied: `state.json` may still name that one."""
    known = meta(connection)
    return {known[name] for name in ("instance", "original") if name in known}


def begin(connection: sqlite3.Connection, lock: str, boot_id: str) -> Instance:
    """Begin a new life of the daemon on this database: the epoch grows by one, durably, before anything else.

    `lock`: which file the directory's lock is (store/birth.py).
    """
    known = meta(connection)
    copied = known.get("lock_mark", lock) != lock
    same_boot = known.get("boot_id") == boot_id and not copied
    instance = Instance(
        id=secrets.token_hex(8) if copied or "instance" not in known else known["instance"],
        epoch=known.get("epoch", 0) + 1,
        # A wall clock may be behind at the next boot (set back, or no battery): steady time goes on from where it was.
        anchor=known["anchor"] if same_boot else max(wall_ms(), known.get(STEADY, 0)) - boot_ms(),
        copied=copied,
        foreign_epochs=known.get("epoch", 0) if copied else known.get("foreign_epochs", 0),
    )
    facts = {
        "instance": instance.id,
        "epoch": instance.epoch,
        "anchor": instance.anchor,
        "boot_id": boot_id,
        "lock_mark": lock,
        "foreign_epochs": instance.foreign_epochs,
    }
    if copied:
        facts["original"] = known["instance"]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(SET_META, facts.items())
    connection.execute("COMMIT")
    return instance
