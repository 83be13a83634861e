"""Rows of `recoveries`: one for each start of a daemon, with the recovery plan and how many attempts it settled.

The plan is stored as JSON, so that a person can read later which facts each decision was based on.
"""

from __future__ import annotations

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


class Recovery(Struct, frozen=True, kw_only=True):
    """Counts are of attempts; `swept` counts leaked processes."""

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
    return tuple(getattr(recovery, name) for name in Recovery.__struct_fields__)
