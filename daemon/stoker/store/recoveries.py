"""Rows of `recoveries`: one for every start, with the plan it followed and what came of it.

Owns nothing but their shape. The plan is stored as JSON so that a person can read afterwards what was known.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from msgspec import Struct

UPSERT = """
INSERT INTO recoveries
    (epoch, started_at, finished_at, plan, settled, adopted, stopped, requeued, unseen, stuck, swept)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (epoch) DO UPDATE SET finished_at = excluded.finished_at, plan = excluded.plan,
    settled = excluded.settled, adopted = excluded.adopted, stopped = excluded.stopped,
    requeued = excluded.requeued, unseen = excluded.unseen, stuck = excluded.stuck, swept = excluded.swept
"""
NEWEST = "SELECT * FROM recoveries ORDER BY epoch DESC LIMIT 1"


class Recovery(Struct, frozen=True, kw_only=True):
    """What one start found and did; counts are attempts, `swept` counts leaked processes."""

    epoch: int
    started_at: int
    finished_at: int | None = None
    plan: str = "[]"
    settled: int = 0
    adopted: int = 0
    stopped: int = 0
    requeued: int = 0
    unseen: int = 0
    stuck: int = 0
    swept: int = 0


def row(recovery: Recovery) -> tuple[Any, ...]:
    """The parameters of UPSERT."""
    return tuple(getattr(recovery, name) for name in Recovery.__struct_fields__)


def newest(connection: sqlite3.Connection) -> Recovery | None:
    """The last start, if there was one."""
    found = connection.execute(NEWEST).fetchone()
    return None if found is None else Recovery(**dict(zip(Recovery.__struct_fields__, found, strict=True)))
