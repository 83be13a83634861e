"""Who this state directory is: its instance id, the epoch of this start, and the anchor of its clock.

Owns the facts in `meta`. A directory that was copied has another lock file than the one it remembers: it gets a
new id, and remembers up to which epoch all that it knows happened to the original, so that no process of that one is
ever taken for ours, at this start or at any later one.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from stoker.core.clock import Now, boot_ms, wall_ms
from stoker.store.queues import SET_META, meta


class Instance(Struct, frozen=True):
    """`anchor` is steady time at boot (core/clock.py); `copied`: this is the first start of a copy.

    Attempts of a launcher whose epoch is not above `foreign_epochs` belong to the directory that this is a copy of.
    Those not above `hidden_epochs` may run in another pid namespace of this boot, where /proc here does not show them.
    """

    id: str
    epoch: int
    anchor: int
    copied: bool
    foreign_epochs: int = 0
    hidden_epochs: int = 0
    token_key: str = ""


def ids(connection: sqlite3.Connection) -> set[str]:
    """Who this database is, and who it was before it was copied: `state.json` may still name that one."""
    known = meta(connection)
    return {known[name] for name in ("instance", "original") if name in known}


def begin(connection: sqlite3.Connection, lock: str, boot_id: str, pid_namespace: int) -> Instance:
    """Begin a new life of the daemon on this database: the epoch grows by one, durably, before anything else.

    `lock`: which file the directory's lock is (store/file_identity.py). `pid_namespace`: its inode.
    """
    known = meta(connection)
    copied = known.get("lock_mark", lock) != lock
    same_boot = known.get("boot_id") == boot_id and not copied
    elsewhere = same_boot and known.get("pid_namespace", pid_namespace) != pid_namespace
    instance = Instance(
        id=secrets.token_hex(8) if copied or "instance" not in known else known["instance"],
        epoch=known.get("epoch", 0) + 1,
        anchor=known["anchor"] if same_boot else _anchor(known),
        copied=copied,
        foreign_epochs=known.get("epoch", 0) if copied else known.get("foreign_epochs", 0),
        hidden_epochs=known.get("epoch", 0) if elsewhere else known.get("hidden_epochs", 0) if same_boot else 0,
        token_key=secrets.token_hex(32) if copied or "token_key" not in known else known["token_key"],
    )
    facts = {
        "instance": instance.id,
        "epoch": instance.epoch,
        "anchor": instance.anchor,
        **seen(Now(wall_ms(), instance.anchor + boot_ms())),
        "boot_id": boot_id,
        "lock_mark": lock,
        "pid_namespace": pid_namespace,
        "foreign_epochs": instance.foreign_epochs,
        "hidden_epochs": instance.hidden_epochs,
        "token_key": instance.token_key,
    }
    if copied:
        facts["original"] = known["instance"]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(SET_META, facts.items())
    connection.execute("COMMIT")
    return instance


def seen(now: Now) -> dict[str, int]:
    """Facts for `meta`: what both clocks showed. The next boot goes on from there."""
    return {"seen_wall": now.wall, "seen_steady": now.steady}


def _anchor(known: Mapping[str, Any]) -> int:
    """Steady time goes on from where it was last seen, by what the wall clock says has passed since.

    So a wall clock that was set in an earlier boot does not move the ends of waits that were counted in it; and one
    that lost its time with the power (1970) does not take steady time back, where they would never come.
    """
    wall = wall_ms()
    seen_wall: int = known.get("seen_wall", wall)
    seen_steady: int = known.get("seen_steady", wall)
    return seen_steady + max(0, wall - seen_wall) - boot_ms()
