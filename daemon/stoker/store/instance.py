"""The identity of a state directory: its instance id, the epoch of this start, and the anchor of its clock.

Owns these facts in `meta`. The mark of the lock file shows that a directory is a copy. A copy gets a new id and stores
the last epoch of the original, so that no process of the original is ever taken for one of the copy.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from stoker.core.clock import Now, boot_ms, wall_ms
from stoker.core.retention import TimeOff
from stoker.store import changes, history_id
from stoker.store.queues import SET_META, meta

LONG_OFF_MS = 86_400_000  # a day: a host that is off every night does not count


class Instance(Struct, frozen=True):
    """`anchor` is steady time at boot (core/clock.py); `copied`: this is the first start of a copy.

    Attempts of a launcher whose epoch is not above `foreign_epochs` belong to the directory that this is a copy of.
    Those not above `hidden_epochs` may run in another pid namespace of this boot, where /proc here does not show them.
    Those not above `earlier_epochs` were opened in an earlier boot: what they left in files may be lost.
    `off`: the last time between two boots that was longer than usual.
    """

    id: str
    epoch: int
    anchor: int
    copied: bool
    foreign_epochs: int = 0
    hidden_epochs: int = 0
    earlier_epochs: int = 0
    token_key: str = ""
    off: TimeOff | None = None


def ids(connection: sqlite3.Connection) -> set[str]:
    """The ids of this database: its own, and that of the original of a copy, which `state.json` may still have."""
    stored = meta(connection)
    return {stored[name] for name in ("instance", "original") if name in stored}


def own_id(connection: sqlite3.Connection) -> str:
    """The id of this database. Raises KeyError if it has none."""
    stored: str = meta(connection)["instance"]
    return stored


def begin(connection: sqlite3.Connection, lock: str, boot_id: str, pid_namespace: int) -> Instance:
    """Begin a new epoch on this database, durably and before anything else.

    `lock`: the mark of the directory's lock file (store/file_identity.py). `pid_namespace`: its inode.
    """
    stored = meta(connection)
    copied = stored.get("lock_mark", lock) != lock
    same_boot = stored.get("boot_id") == boot_id and not copied
    last = stored.get("epoch", 0)
    elsewhere = same_boot and stored.get("pid_namespace", pid_namespace) != pid_namespace
    instance = Instance(
        id=secrets.token_hex(8) if copied or "instance" not in stored else stored["instance"],
        epoch=last + 1,
        anchor=stored["anchor"] if same_boot else _anchor(stored),
        copied=copied,
        foreign_epochs=last if copied else stored.get("foreign_epochs", 0),
        hidden_epochs=last if elsewhere else stored.get("hidden_epochs", 0) if same_boot else 0,
        earlier_epochs=stored.get("earlier_epochs", last) if same_boot else last,
        token_key=secrets.token_hex(32) if copied or "token_key" not in stored else stored["token_key"],
        off=_time_off(stored, same_boot=same_boot),
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
        "earlier_epochs": instance.earlier_epochs,
        "hidden_epochs": instance.hidden_epochs,
        "token_key": instance.token_key,
    }
    if instance.off is not None:
        facts |= {"off_begin": instance.off.begin, "off_end": instance.off.end}
    if copied:
        facts["original"] = stored["instance"]
    connection.execute("BEGIN IMMEDIATE")
    if copied:
        history_id.begin_another(connection, changes.last(connection)[0])
    connection.executemany(SET_META, facts.items())
    connection.execute("COMMIT")
    return instance


def _time_off(stored: Mapping[str, Any], *, same_boot: bool) -> TimeOff | None:
    """The time since the clocks were last stored, if that was in an earlier boot and long ago; else the last such."""
    now = wall_ms()
    begin: int = now if same_boot else stored.get("seen_wall", now)
    if now - begin > LONG_OFF_MS:
        return TimeOff(begin, now)
    return TimeOff(stored["off_begin"], stored["off_end"]) if "off_end" in stored else None


def seen(now: Now) -> dict[str, int]:
    """Facts for `meta`: the readings of both clocks, from which the next boot goes on."""
    return {"seen_wall": now.wall, "seen_steady": now.steady}


def _anchor(stored: Mapping[str, Any]) -> int:
    """After a boot steady time goes on from its last reading, plus the time that passed by the wall clock.

    So a wall clock that was set in an earlier boot does not move the waits that were counted in it; and a wall clock
    that lost its time with the power (1970) does not set steady time back, which would make these waits endless.
    """
    wall = wall_ms()
    seen_wall: int = stored.get("seen_wall", wall)
    seen_steady: int = stored.get("seen_steady", wall)
    return seen_steady + max(0, wall - seen_wall) - boot_ms()
